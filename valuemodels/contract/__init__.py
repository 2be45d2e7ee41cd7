"""What the HTTP process, the workers and training agree on. No torch."""
