"""Replies to prompts, and how they are sampled."""
