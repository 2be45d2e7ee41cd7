"""What stands in front of all routes: keys, load, size, and the end of the day."""
