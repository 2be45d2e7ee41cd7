"""The audit log: who changed what, and who was refused, as JSON lines. Never a prompt, an answer or a secret.

Goes to the file that `MAVIS_AUDIT_LOG` names, else with our other messages. Runs in the HTTP process.
"""

import json
import logging
from datetime import UTC, datetime
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

from server.errors import StartupError
from valuemodels.contract.throttle import Throttle

logger = logging.getLogger("mavis.audit")


class Audit:
    """Writes entries; of refusals, which any stranger can cause, only so many a second."""

    def __init__(self, refusals: Throttle | None = None) -> None:
        self._refusals = refusals or Throttle(burst=20, interval_s=0.5)

    def note(self, event: str, **fields: Any) -> None:
        """Write an entry."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        logger.info("%s", json.dumps({"at": at, "event": event, **fields}, ensure_ascii=True))

    def refuse(self, event: str, **fields: Any) -> None:
        """Write an entry of a refusal; where many come, `left_out` says how many before it were not written."""
        if (left_out := self._refusals.admit()) is not None:
            self.note(event, **fields, **({"left_out": left_out} if left_out else {}))


def write_audit_to(path: Path) -> None:
    """Have the audit log written to a file of its own, which may be moved away while it is written.

    Raises:
        StartupError: it cannot be opened.
    """
    try:
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise StartupError(f"MAVIS_AUDIT_LOG: {path} cannot be written: {error.strerror}") from None
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
