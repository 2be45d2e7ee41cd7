"""What each round is worth, on prompts that nothing was trained on; the curve over the rounds."""
