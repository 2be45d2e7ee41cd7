"""Measuring a finished checkpoint on prompts that nothing was trained on."""
