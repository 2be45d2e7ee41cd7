"""The value model: targets, data, fit, held-out figures, checkpoint."""
