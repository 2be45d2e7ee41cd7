"""The stage that finds a probe's scales.

Runs in its own process, started by `training.rounds`, with the engine in it.
"""

from typing import Any

from training.calibrate.stage import find_scales
from training.distill.run import DistillRun
from training.runs.run import VALUES_FOLDER


def calibrate_probe(run: DistillRun) -> dict[str, Any]:
    """Find every objective's scale for fast scoring, beginning where the probe's tilts cost what the exact ones do."""
    folder = run.finished("probe") / VALUES_FOLDER
    return find_scales(run, folder, "fast", run.stage("probe").summary()["starts"])
