"""What the keys of a recipe do to its values: the same replies, fitted otherwise."""
