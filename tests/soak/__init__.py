"""A real server under everything at once, for as long as one likes: `make soak`."""
