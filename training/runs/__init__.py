"""What every run has: its folder, its stages, progress, and errors as one sentence."""
