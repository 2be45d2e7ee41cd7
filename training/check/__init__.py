"""What can be known of a recipe before it is carried out."""
