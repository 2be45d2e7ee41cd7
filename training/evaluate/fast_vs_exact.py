"""`mavis compare`: what fast scoring keeps of exact scoring's gain, at the same KL, on held-out prompts.

    mavis compare [--values DIR] [--samples 32] [--run-dir runs/compare] [--out FILE.json]

For each objective alone and for all together: replies of the base, replies tilted by exact values, and replies tilted
by fast ones with a strength that costs as much. Runs in the process of the command, with the engine in it; what an
earlier run has sampled is not sampled again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from training.bootstrap import Estimate, mean_estimate
from training.comparison import kept_gain, matching_strength
from training.errors import EXPECTED_ERRORS, fail
from training.evaluate.checkpoint import BaseFolderOption, OutOption, Subject, ValuesOption, find_subject, write_report
from training.progress import Advance, console, progress
from training.prompt_set import chat_prompts
from training.prompts.files import Fractions, load_prompts
from training.recipe import EngineRecipe, RecipeError, read_recipe
from training.rewards import load_reward
from training.rollout import Limits, RolloutEngine
from training.rollouts.sampler import Arm, Sampler
from training.shards import Rollout
from training.slider_table import Setting
from valuemodels.contract.guidance import Guidance, Scoring

app = typer.Typer(invoke_without_command=True, help="Compare fast scoring with exact scoring.")

_PILOT_SAMPLES = 4
_JOINT = 0.5


@dataclass(frozen=True, slots=True)
class Row:
    """One setting.

    Attributes:
        gain: mean weighted shift of the rewards against the base's replies at the same seeds, in standard deviations
            of the base's reward; kl_nats: a reply.
        beta: strength of the fast tilt.
        kept: fast gain over exact gain, at exact's KL.
    """

    setting: Setting
    exact_gain: Estimate
    exact_kl_nats: Estimate
    fast_gain: Estimate
    fast_kl_nats: Estimate
    beta: float
    kept: Estimate


@app.callback()
def compare(
    values: ValuesOption = None,
    out: OutOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt, in each arm.")] = 32,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N of the recipe's test prompts.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 2,
    run_dir: Annotated[Path, typer.Option(help="Where the replies are kept.")] = Path("runs/compare"),
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample every setting both ways, score the replies, print a table and write JSON."""
    try:
        subject = find_subject(values, base_folder)
        if "fast" not in subject.config.scorings:
            raise RecipeError(f"{subject.config.id} offers no fast scoring; make it with `mavis train distill`")
        sampler = Sampler(
            folder=run_dir,
            engine=cache(lambda: RolloutEngine(subject.base, EngineRecipe(), subject.guide)),
            subject=subject.config.id,
            prompts=_test_prompts(subject, limit),
            limits=Limits(max_tokens),
            seed=seed,
        )
        rows = measure(sampler, subject, samples)
        print_rows(rows, sampler, samples)
        plan = {"checkpoint": subject.config.id, "prompts": len(sampler.prompts), "samples": samples}
        write_report(out, {**plan, "max_tokens": max_tokens, "seed": seed, "rows": [asdict(row) for row in rows]})
    except EXPECTED_ERRORS as error:
        fail(error)


def settings(objectives: Sequence[str]) -> list[Setting]:
    """Each objective alone at weight 1, and where there are several, all together."""
    alone = [Setting({name: 1.0}) for name in objectives]
    return alone + ([Setting(dict.fromkeys(objectives, _JOINT))] if len(objectives) > 1 else [])


def measure(sampler: Sampler, subject: Subject, samples: int) -> list[Row]:
    """All settings, one after another."""
    chosen = settings(subject.config.names)
    total = len(sampler.prompts) * (samples + len(chosen) * (2 * samples + min(samples, _PILOT_SAMPLES)))
    with progress("compare", total) as advance:
        base = _scored(sampler, subject, Arm("base", None, samples), advance)
        return [_measure_setting(sampler, subject, setting, samples, base, advance) for setting in chosen]


def print_rows(rows: Sequence[Row], sampler: Sampler, samples: int) -> None:
    """The table."""
    table = Table("weights", "exact gain", "exact KL", "fast gain", "fast KL", "fast beta", "kept at equal KL")
    for row in rows:
        figures = (row.exact_gain, row.exact_kl_nats, row.fast_gain, row.fast_kl_nats)
        table.add_row(str(row.setting), *map(str, figures), f"{row.beta:.2f}", str(row.kept))
    console.print(table)
    console.print(f"{len(sampler.prompts)} prompts x {samples} samples; gains in base standard deviations, KL in nats")


@dataclass(frozen=True, slots=True)
class _Scored:
    """An arm's replies in figures, [prompts, samples] each: KL in nats, and every objective's reward."""

    kl_nats: NDArray[np.float64]
    rewards: dict[str, NDArray[np.float64]]


def _measure_setting(
    sampler: Sampler, subject: Subject, setting: Setting, samples: int, base: _Scored, advance: Advance
) -> Row:
    name = "_".join(f"{objective}{weight:+g}" for objective, weight in setting.weights.items())

    def arm(scoring: Scoring, size: int, beta: float = 1.0) -> _Scored:
        guidance = Guidance("", weights=setting.weights, scoring=scoring, beta=beta)
        return _scored(sampler, subject, Arm(f"{name}_{scoring}_{beta:g}x{size}", guidance, size), advance)

    exact = arm("exact", samples)
    pilot = arm("fast", min(samples, _PILOT_SAMPLES))
    beta = round(matching_strength(fmean(pilot.kl_nats.flat), fmean(exact.kl_nats.flat)), 3)
    fast = arm("fast", samples, beta)
    gains = {way: _gain(scored, base, setting, subject) for way, scored in (("exact", exact), ("fast", fast))}
    return Row(
        setting=setting,
        exact_gain=mean_estimate(gains["exact"]),
        exact_kl_nats=mean_estimate(exact.kl_nats),
        fast_gain=mean_estimate(gains["fast"]),
        fast_kl_nats=mean_estimate(fast.kl_nats),
        beta=beta,
        kept=kept_gain(gains["fast"], fast.kl_nats, gains["exact"], exact.kl_nats),
    )


def _gain(scored: _Scored, base: _Scored, setting: Setting, subject: Subject) -> NDArray[np.float64]:
    std = {objective.name: objective.std for objective in subject.config.objectives}
    shifts = [
        weight * (scored.rewards[name] - base.rewards[name]) / std[name] for name, weight in setting.weights.items()
    ]
    gain: NDArray[np.float64] = np.sum(shifts, axis=0) / sum(setting.weights.values())
    return gain


def _scored(sampler: Sampler, subject: Subject, arm: Arm, advance: Advance) -> _Scored:
    replies = sampler.replies(arm, advance)
    texts = {prompt.prompt_id: prompt.text for prompt in sampler.prompts}
    shape = (len(sampler.prompts), arm.samples)
    return _Scored(
        kl_nats=np.reshape([reply.kl_nats for reply in replies], shape),
        rewards={
            objective.name: _rewards(objective.reward, replies, texts, shape) for objective in subject.config.objectives
        },
    )


def _rewards(
    reward: str, replies: Sequence[Rollout], texts: dict[str, str], shape: tuple[int, int]
) -> NDArray[np.float64]:
    measured: Any = load_reward(reward)([texts[r.prompt_id] for r in replies], [reply.text for reply in replies])
    return np.reshape(measured, shape)


def _test_prompts(subject: Subject, limit: int) -> list[Any]:
    from transformers import AutoTokenizer

    recipe = read_recipe(subject.config.training.recipe)
    tokenizer = AutoTokenizer.from_pretrained(subject.base, trust_remote_code=False)
    rendered = chat_prompts(tokenizer, load_prompts(recipe.prompts_path), Fractions(**recipe.split.model_dump()))
    return [prompt for prompt in rendered if prompt.split == "test"][:limit]
