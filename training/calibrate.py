"""The stages that find the scales: how strongly each objective must tilt so that weight 1 costs what it should.

They sample through the real engine and the guide that serves, once for each trial, always with the same seeds. Each
runs in its own process, started by `training.stages`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from training.distill_run import DistillRun
from training.progress import Advance, progress
from training.prompt_set import ChatPrompt, read_prompt_set
from training.rollout import Limits, Request, RolloutEngine, request_seed
from training.rollouts.stage import PROMPTS_FILE
from training.run import VALUES_FOLDER, Run
from training.scale_search import best_trial, find_scale
from valuemodels.contract.guidance import Guidance, Scoring
from valuemodels.contract.guide_config import GuideConfig


def calibrate_scales(run: Run) -> dict[str, Any]:
    """Find every objective's scale for exact scoring."""
    starts = {objective.name: run.recipe.calibrate.start for objective in run.recipe.objectives}
    return _find_scales(run, run.finished("fit") / VALUES_FOLDER, "exact", starts)


def calibrate_probe(run: DistillRun) -> dict[str, Any]:
    """Find every objective's scale for fast scoring, beginning where the probe's tilts cost what the exact ones do."""
    folder = run.finished("probe") / VALUES_FOLDER
    return _find_scales(run, folder, "fast", run.stage("probe").summary()["starts"])


@dataclass(frozen=True, slots=True)
class _Measure:
    """The mean KL, nats a reply, of one objective alone at weight 1 and some scale."""

    engine: RolloutEngine
    run: Run
    prompts: Sequence[ChatPrompt]
    objective: str
    scoring: Scoring
    advance: Advance

    def __call__(self, scale: float) -> float:
        rollout = self.run.recipe.rollout
        requests = [self._request(prompt, scale) for prompt in self.prompts]
        replies = self.engine.sample(requests, Limits(rollout.max_tokens, rollout.temperature))
        kl_nats = fmean(reply.kl_nats for reply in replies)
        self.advance(len(replies), f"{self.objective}: scale {scale:.3g} costs {kl_nats:.2f} nats")
        return kl_nats

    def _request(self, prompt: ChatPrompt, scale: float) -> Request:
        return Request(
            prompt_id=prompt.prompt_id,
            prompt_token_ids=prompt.token_ids,
            sample=0,
            seed=request_seed(self.run.recipe.seed, prompt.prompt_id, 0),
            guidance=Guidance(
                generation_id=f"{self.objective}-{scale}-{prompt.prompt_id}",
                weights={self.objective: 1.0},
                beta=scale,
                candidates=self.run.recipe.calibrate.candidates,
                scoring=self.scoring,
            ),
        )


def _find_scales(run: Run, checkpoint: Path, scoring: Scoring, starts: Mapping[str, float]) -> dict[str, Any]:
    """Find scales on validation prompts.

    Args:
        checkpoint: its scales for this scoring are 1, so that a trial's scale is simply the request's beta.
        starts: objective -> the first scale tried.
    """
    recipe = run.recipe.calibrate
    prompts = [p for p in read_prompt_set(run.finished("prompts") / PROMPTS_FILE) if p.split == "validation"]
    prompts = prompts[: recipe.prompts]
    guide = GuideConfig(checkpoints=(str(checkpoint),), base_model=run.base_folder, scorings=(scoring,))
    engine = RolloutEngine(run.base_folder, run.recipe.engine, guide)
    scales: dict[str, float] = {}
    trials: dict[str, list[dict[str, float]]] = {}
    with progress("calibrate", len(starts) * recipe.max_evaluations * len(prompts)) as advance:
        for objective, start in starts.items():
            measure = _Measure(engine, run, prompts, objective, scoring, advance)
            tried = find_scale(measure, recipe.target_kl, recipe.tolerance, start, recipe.max_evaluations)
            scales[objective] = best_trial(tried, recipe.target_kl).scale
            trials[objective] = [asdict(trial) for trial in tried]
            # Trials that were not needed.
            advance((recipe.max_evaluations - len(tried)) * len(prompts))
    return {"prompts": len(prompts), "scales": scales, "trials": trials}
