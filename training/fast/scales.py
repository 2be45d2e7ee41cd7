"""The stage that finds a probe's scales, by sampling: what a tilt costs on its own replies only they can say.

Runs in its own process, started by `training.rounds`, with the engine in it.
"""

from typing import Any

from training.calibrate.stage import find_scales
from training.fast.run import FastRun
from training.runs.run import VALUES_FOLDER
from valuemodels.contract.value_config import read_value_config


def calibrate_probe(run: FastRun) -> dict[str, Any]:
    """Find every objective's scale for fast scoring, beginning where the fit says."""
    folder = run.finished("probe") / VALUES_FOLDER
    probe = read_value_config(folder).probe
    assert probe is not None, folder
    return find_scales(run, run.at(0).finished("prompts"), folder, "fast", probe.scales, probe.scales)
