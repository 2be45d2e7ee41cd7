"""How much this package's loggers say, in whichever process."""

import logging


def log_at(level: str) -> None:
    """Log what is at least of this level to stderr."""
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("mavis").setLevel(level.upper())
