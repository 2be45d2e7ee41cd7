"""One decoding step: score, tilt, record. Knows nothing of vLLM."""
