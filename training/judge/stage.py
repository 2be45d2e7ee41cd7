"""The stage that judges a round: replies to held-out prompts, by its calibrated values, against the base's.

    <stage>/<setting>/shard_<n>.parquet   replies at the weights of a setting, seeds as everywhere
    <stage>/by_prompt.json                setting -> gain and KL of every prompt

The base's replies are sampled in the first round, for all. Runs in its own process, started by `training.rounds`, with
the engine in it. Must not import torch.
"""

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np

from training.judge.verdict import SettingByPrompt, is_kept, verdict_on
from training.prompts.chat import ChatPrompt, prompts_to_test, read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, RolloutEngine
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.scored import Scored, scored_replies
from training.runs.progress import progress
from training.runs.run import Run
from training.runs.run_dir import folder_hash, read_json, write_json
from training.statistics.bootstrap import Estimate
from valuemodels.contract.guide_config import GuideConfig

BY_PROMPT_FILE = "by_prompt.json"


def judge_round(run: Run) -> dict[str, Any]:
    """Sample every setting, score it, and set the round against those before."""
    judge = run.recipe.judging
    prompts, settings = judge_prompts(run), judge_settings(list(run.rewards))
    fitted = run.fitted()
    guide = GuideConfig(checkpoints=(str(fitted.folder),), base_model=run.base_folder, scorings=(fitted.scoring,))
    engine = cache(lambda: RolloutEngine(run.base_folder, run.recipe.engine, guide))
    limits = Limits(run.recipe.rollout.max_tokens, run.recipe.rollout.temperature)
    base_from = {"base_content": folder_hash(run.base_folder)}
    own_from = {**base_from, "values_content": folder_hash(fitted.folder)}
    of_base = Sampler(run.at(0).stage("judge").folder, engine, base_from, prompts, limits, run.recipe.seed)
    own = Sampler(run.stage("judge").folder, engine, own_from, prompts, limits, run.recipe.seed)
    by_prompt: dict[str, SettingByPrompt] = {}
    with progress("judge", len(prompts) * judge.samples * (1 + len(settings))) as advance:
        base = scored_replies(of_base, run.rewards, Condition("base", None, judge.samples), advance)
        for name, weights in settings.items():
            guidance = fitted.guidance(weights, run.recipe.calibrate.candidates)
            found = scored_replies(own, run.rewards, Condition(name, guidance, judge.samples), advance)
            by_prompt[name] = _by_prompt(run, weights, found, base)
    write_json(run.stage("judge").folder / BY_PROMPT_FILE, {name: asdict(each) for name, each in by_prompt.items()})
    return _against_earlier(run, by_prompt)


def judge_settings(objectives: list[str]) -> dict[str, dict[str, float]]:
    """Name -> weights: each objective alone, and where there are several all at once, at about the same cost."""
    settings = {name: {name: 1.0} for name in objectives}
    if len(objectives) > 1:
        # Tilts that have nothing to do with each other add up their costs, which grow with the weights' squares.
        settings["together"] = dict.fromkeys(objectives, len(objectives) ** -0.5)
    return settings


def judge_prompts(run: Run) -> list[ChatPrompt]:
    """The prompts that every round is judged by."""
    judge = run.recipe.judging
    if judge.prompts is None:
        read = read_prompt_set(run.at(0).finished("prompts") / PROMPTS_FILE)
        return [prompt for prompt in read if prompt.split == "test"][: judge.limit]
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(run.base_folder, trust_remote_code=False)
    return prompts_to_test(tokenizer, judge.prompts, judge.limit)


def _by_prompt(run: Run, weights: Mapping[str, float], found: Scored, base: Scored) -> SettingByPrompt:
    """What each prompt's replies gained: weighted means of the rewards' shifts, in standard deviations of the base."""
    shifts = [
        weight * (found.rewards[name] - base.rewards[name]) / run.base_rewards()[name][1]
        for name, weight in weights.items()
    ]
    gain = np.sum(shifts, axis=0) / sum(weights.values())
    return SettingByPrompt(gain.mean(axis=1).tolist(), found.kl_nats.mean(axis=1).tolist())


def _against_earlier(run: Run, by_prompt: Mapping[str, SettingByPrompt]) -> dict[str, Any]:
    first = by_prompt
    if run.iteration:
        stored = read_json(run.at(0).finished("judge") / BY_PROMPT_FILE)
        first = {name: SettingByPrompt(**stored[name]) for name in by_prompt}
    verdict = verdict_on(by_prompt, first, run.recipe.calibrate.target_kl, run.recipe.fit.zeta)
    earlier = run.at(run.iteration - 1).best if run.iteration else None
    best = None if earlier is None else Estimate(**earlier.stage("judge").summary()["verdict"]["worth"])
    kept = is_kept(verdict.worth, best)
    return {
        "worth": str(verdict.worth),
        "kept": kept,
        "best": run.iteration if kept or earlier is None else earlier.iteration,
        "prompts": len(next(iter(by_prompt.values())).gain),
        "verdict": asdict(verdict),
    }
