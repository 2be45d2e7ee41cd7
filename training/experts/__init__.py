"""Policies fine-tuned for one objective each: what this project is compared with, and does without."""
