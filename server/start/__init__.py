"""From a command line and an environment to a server that listens, and to its end."""
