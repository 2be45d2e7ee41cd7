"""`evaluation.json` in a checkpoint's folder: what `mavis evaluate` has measured of it. pydantic only; no torch.

It is for people, and for the page that shows them what weights buy. Nothing is served by it.
"""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from valuemodels.contract.errors import CheckpointError

EVALUATION_FILE = "evaluation.json"


class _Known(BaseModel):
    """Keys that are not named here are other readers' business."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Interval(_Known):
    """A figure with its 95% interval over prompts."""

    value: float = Field(description="The mean.")
    low: float = Field(description="Lower end.")
    high: float = Field(description="Upper end.")


class MeasuredObjective(_Known):
    """What weights did to one objective's reward."""

    shift: Interval = Field(description="From the base's own reward, in standard deviations of the base's reward.")


class MeasuredSetting(_Known):
    """Weights that were tried."""

    weights: dict[str, float] = Field(description="Objective -> weight; none is the base.")


class MeasuredRow(_Known):
    """What came of them."""

    setting: MeasuredSetting = Field(description="The weights.")
    objectives: dict[str, MeasuredObjective] = Field(description="Objective -> what they did to it.")
    kl_nats: Interval = Field(description="KL from the base, in nats a reply.")


class Evaluation(_Known):
    """What `mavis evaluate` has measured of one checkpoint."""

    checkpoint: str = Field(description="Its id.")
    prompts: int = Field(description="How many held-out prompts.")
    samples: int = Field(description="Replies to each, at every setting.")
    max_tokens: int = Field(description="Of a reply.")
    scoring: str = Field(description="How candidates were valued.")
    rows: tuple[MeasuredRow, ...] = Field(description="One a setting of the weights.")


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
