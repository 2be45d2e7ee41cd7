"""Value models: what a prefix is worth, and how that tilts the base model's next-token distribution.

Runs in vLLM's worker process and in training. Imports nothing of `server`, `training` or `client`.
"""
