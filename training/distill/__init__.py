"""The probe: recorded positions, its fit, its scales, the distilled checkpoint. Files are named as in `fit`."""
