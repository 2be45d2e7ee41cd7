"""Rewards from preference pairs: what people compared, and the model that learns it."""
