"""The page with the sliders: static files, served as they are. No build step, nothing from elsewhere."""
