"""One more objective on the finished trunk of a training run: its head alone is fitted, to replies that are there."""
