"""Speed: interleaved pairs of engines, each in a process of its own."""
