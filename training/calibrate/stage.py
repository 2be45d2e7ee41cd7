"""The stages that find the scales: how strongly each objective must tilt so that weight 1 costs what it should.

They sample through the real engine and the guide that serves, once for each trial, always with the same seeds. Each
runs in its own process, started by `training.rounds`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from training.calibrate.scale_search import find_scale, matching_trial
from training.prompts.chat import ChatPrompt, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.requests import requests_to_sample
from training.runs.progress import Advance, progress
from training.runs.run import VALUES_FOLDER, Run
from valuemodels.contract.guidance import Guidance, Scoring
from valuemodels.contract.guide_config import GuideConfig


def calibrate_scales(run: Run) -> dict[str, Any]:
    """Find every objective's scale for exact scoring."""
    values = run.finished(run.values_stage) / VALUES_FOLDER
    return find_scales(run, run.at(0).finished("prompts"), values, "exact", run.first_scales())


@dataclass(frozen=True, slots=True)
class _Measure:
    """The mean KL, nats a reply, of one objective alone at weight 1 and some scale."""

    engine: RolloutEngine
    run: Run
    prompts: Sequence[ChatPrompt]
    objective: str
    own_scale: float
    scoring: Scoring
    advance: Advance

    def __call__(self, scale: float) -> float:
        rollout = self.run.recipe.rollout
        guidance = Guidance(
            generation_id="",
            weights={self.objective: 1.0},
            beta=scale / self.own_scale,
            candidates=self.run.recipe.calibrate.candidates,
            scoring=self.scoring,
        )
        requests = requests_to_sample(
            self.prompts, 1, self.run.recipe.seed, guidance, label=f"{self.objective}-{scale}"
        )
        replies = self.engine.sample(requests, Limits(rollout.max_tokens, rollout.temperature))
        kl_nats = fmean(reply.kl_nats for reply in replies)
        self.advance(len(replies), f"{self.objective}: scale {scale:.3g} costs {kl_nats:.2f} nats")
        return kl_nats


def find_scales(
    run: Run,
    prompts_folder: Path,
    checkpoint: Path,
    scoring: Scoring,
    starts: Mapping[str, float],
    own_scales: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Find scales on validation prompts.

    Args:
        starts: objective -> the first scale tried.
        own_scales: objective -> the scale that the checkpoint has for this scoring already; None: 1 everywhere.
    """
    recipe = run.recipe.calibrate
    prompts = [p for p in read_prompt_set(prompts_folder / PROMPTS_FILE) if p.split == "validation"]
    prompts = prompts[: recipe.prompts]
    guide = GuideConfig(checkpoints=(str(checkpoint),), base_model=run.base_folder, scorings=(scoring,))
    engine = RolloutEngine(run.base_folder, run.recipe.engine, guide)
    scales: dict[str, float] = {}
    trials: dict[str, list[dict[str, float]]] = {}
    with progress("calibrate", len(starts) * recipe.max_evaluations * len(prompts)) as advance:
        for objective, start in starts.items():
            own_scale = (own_scales or {}).get(objective, 1.0)
            measure = _Measure(engine, run, prompts, objective, own_scale, scoring, advance)
            tried = find_scale(measure, recipe.target_kl, recipe.tolerance, start, recipe.max_evaluations)
            scales[objective] = matching_trial(tried, recipe.target_kl, recipe.tolerance, objective).scale
            trials[objective] = [asdict(trial) for trial in tried]
            # Trials that were not needed.
            advance((recipe.max_evaluations - len(tried)) * len(prompts))
    return {"prompts": len(prompts), "scales": scales, "trials": trials}
