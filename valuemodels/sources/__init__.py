"""Where models and checkpoints come from, and what this machine's processor is good at. No torch at import."""
