"""Several exact checkpoints made into one: a trunk, and a head for each objective, regressed on their values."""
