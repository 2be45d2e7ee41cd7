"""Figures with their intervals: resampling, and comparing at equal cost."""
