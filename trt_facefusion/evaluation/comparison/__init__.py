"""TODO evaluation/comparison."""
