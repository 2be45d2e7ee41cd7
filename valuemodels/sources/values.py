"""From a name to the folder of a value checkpoint. No torch."""

from pathlib import Path

from valuemodels.sources.embedded import EMBEDDED, EMBEDDED_VALUES
from valuemodels.sources.hub import resolve_folder


def resolve_values(name: str) -> Path:
    """The folder of a value checkpoint: the shipped one by the name "embedded", else a folder or hub id.

    Raises:
        HubError: see `resolve_folder`.
    """
    return EMBEDDED_VALUES if name == EMBEDDED else resolve_folder(name)
