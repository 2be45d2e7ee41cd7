"""`evaluation.json` in a checkpoint's folder: what `mavis evaluate` has measured of it. pydantic only; no torch.

It is for people, and for the page that shows them what weights buy. Nothing is served by it.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from valuemodels.contract.errors import CheckpointError

EVALUATION_FILE = "evaluation.json"


class _Known(BaseModel):
    """Keys that are not named here are other readers' business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Interval(_Known):
    """A figure with its 95% interval over prompts."""

    value: float
    low: float
    high: float


class Figures(_Known):
    """One objective's measured reward: `shift` from the base's own, in its standard deviations."""

    shift: Interval


class Setting(_Known):
    """Weights that were tried; none is the base."""

    weights: dict[str, float]


class Row(_Known):
    """What came of them; `kl_nats` a reply."""

    setting: Setting
    objectives: dict[str, Figures]
    kl_nats: Interval


class Evaluation(_Known):
    """The whole report: of which checkpoint, on how many prompts, with how many replies to each."""

    checkpoint: str
    prompts: int
    samples: int
    max_tokens: int
    scoring: str
    rows: tuple[Row, ...]


def read_evaluation(folder: str | Path, checkpoint: str) -> Evaluation | None:
    """What was measured of a checkpoint; None where nothing was, or of the checkpoint that it was before.

    Raises:
        CheckpointError: the file is there and no report.
    """
    path = Path(folder) / EVALUATION_FILE
    try:
        found = Evaluation.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise CheckpointError(
            f"{path} is no report of `mavis evaluate`: {reason}; write it again or remove it"
        ) from None
    return found if found.checkpoint == checkpoint else None
