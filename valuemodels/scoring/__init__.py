"""From candidates to values: exact, by reading every candidate, or fast, from the base's own hidden state."""
