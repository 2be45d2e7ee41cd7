"""The stage that finds the scales: how strongly each objective must tilt so that weight 1 costs what it should.

Samples through the real engine and the guide that serves, once for each trial, always with the same seeds. Runs in its
own process, started by `training.stages`.
"""

from collections.abc import Sequence
from dataclasses import asdict
from statistics import fmean
from typing import Any

from training.collect import PROMPTS_FILE
from training.progress import Advance, progress
from training.prompt_set import ChatPrompt, read_prompt_set
from training.rollout import Limits, Request, RolloutEngine, request_seed
from training.run import VALUES_FOLDER, Run
from training.scale_search import best_trial, find_scale
from valuemodels.guidance import Guidance, GuideConfig


def calibrate_scales(run: Run) -> dict[str, Any]:
    """Find every objective's scale on validation prompts.

    The fitted checkpoint has scales of 1, so a trial's scale is simply the request's beta.
    """
    recipe = run.recipe.calibrate
    prompts = [p for p in read_prompt_set(run.finished("prompts") / PROMPTS_FILE) if p.split == "validation"]
    prompts = prompts[: recipe.prompts]
    guide = GuideConfig(checkpoints=(str(run.finished("fit") / VALUES_FOLDER),), base_model=run.base_folder)
    engine = RolloutEngine(run.base_folder, run.recipe.engine, guide)
    scales: dict[str, float] = {}
    trials: dict[str, list[dict[str, float]]] = {}
    with progress("calibrate", len(run.recipe.objectives) * recipe.max_evaluations * len(prompts)) as advance:
        for objective in run.recipe.objectives:
            tried = find_scale(
                _Measure(engine, run, prompts, objective.name, advance),
                recipe.target_kl,
                recipe.tolerance,
                recipe.start,
                recipe.max_evaluations,
            )
            scales[objective.name] = best_trial(tried, recipe.target_kl).scale
            trials[objective.name] = [asdict(trial) for trial in tried]
            # Trials that were not needed.
            advance((recipe.max_evaluations - len(tried)) * len(prompts))
    return {"prompts": len(prompts), "scales": scales, "trials": trials}


class _Measure:
    """The mean KL, nats a reply, of one objective alone at weight 1 and some scale."""

    def __init__(
        self, engine: RolloutEngine, run: Run, prompts: Sequence[ChatPrompt], objective: str, advance: Advance
    ) -> None:
        self._engine, self._run, self._prompts = engine, run, prompts
        self._objective, self._advance = objective, advance

    def __call__(self, scale: float) -> float:
        rollout = self._run.recipe.rollout
        requests = [self._request(prompt, scale) for prompt in self._prompts]
        replies = self._engine.sample(requests, Limits(rollout.max_tokens, rollout.temperature))
        kl_nats = fmean(reply.kl_nats for reply in replies)
        self._advance(len(replies), f"{self._objective}: scale {scale:.3g} costs {kl_nats:.2f} nats")
        return kl_nats

    def _request(self, prompt: ChatPrompt, scale: float) -> Request:
        return Request(
            prompt_id=prompt.prompt_id,
            prompt_token_ids=prompt.token_ids,
            sample=0,
            seed=request_seed(self._run.recipe.seed, prompt.prompt_id, 0),
            guidance=Guidance(
                generation_id=f"{self._objective}-{scale}-{prompt.prompt_id}",
                weights={self._objective: 1.0},
                beta=scale,
                candidates=self._run.recipe.calibrate.candidates,
            ),
        )
