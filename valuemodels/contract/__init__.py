"""What the HTTP process, the workers and training agree on: guidance, policy, changes, configs, errors. No torch."""
