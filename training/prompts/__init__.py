"""Prompts: reading and splitting. The shipped ones lie here, too."""
