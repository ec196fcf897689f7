"""TODO build/tuning."""
