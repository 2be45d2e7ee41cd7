"""The life of a generation, from its registration until its worker has forgotten it."""
