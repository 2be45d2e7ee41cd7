"""Prompts: reading, splitting, rendering. The shipped ones lie here, too."""
