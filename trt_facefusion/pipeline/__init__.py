"""The orchestration of all rooms above: building engines."""
