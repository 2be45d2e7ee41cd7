"""How far a generation, or one of its choices, has come. Standard library only."""

from enum import IntEnum


class Phase(IntEnum):
    """Goes up only; a generation is as far as the least advanced of its choices, until it is over.

    RUNNING: the engine samples; it can be changed.
    SAMPLED: the engine has returned the last token; values of the last tokens may still be missing here.
    TOLD: the client has been told everything.
    OVER: the client has got its answer or has left; the workers are told to forget the generation, and once they have,
        its id is free.
    """

    RUNNING = 0
    SAMPLED = 1
    TOLD = 2
    OVER = 3
