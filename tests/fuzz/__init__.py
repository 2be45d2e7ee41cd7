"""A real server under generated requests: `make fuzz`."""
