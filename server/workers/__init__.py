"""The way to the workers and back: one exchange at a time."""
