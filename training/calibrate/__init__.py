"""Scales: how strongly each objective tilts so that weight 1 costs what it should."""
