"""The last stage: the fitted tensors with their calibrated scales, as the checkpoint that is shipped.

Runs in its own process, started by `training.stages`. Must not import vllm.
"""

from typing import Any

from training.run import CHECKPOINT_FOLDER, VALUES_FOLDER, Run
from training.value_checkpoint import value_config
from valuemodels.contract.value_config import TENSORS_FILE, read_value_config
from valuemodels.models.checkpoint import read_tensors, save_checkpoint


def export_checkpoint(run: Run) -> dict[str, Any]:
    """Write the finished checkpoint."""
    fitted = run.finished("fit") / VALUES_FOLDER
    run.finished("calibrate")
    metrics = {objective.name: objective.metrics for objective in read_value_config(fitted).objectives}
    calibrated = run.stage("calibrate").summary()
    folder = run.stage("export").folder / CHECKPOINT_FOLDER
    save_checkpoint(folder, value_config(run, metrics, calibrated["scales"]), read_tensors(fitted))
    return {"megabytes": round((folder / TENSORS_FILE).stat().st_size / 1e6, 1)}
