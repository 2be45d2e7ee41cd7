"""A chat in the terminal whose sliders can be moved while an answer is being written."""
