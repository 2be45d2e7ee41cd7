"""`mavis compare`: what fast and exact scoring gain for the same KL, in real rewards, on held-out prompts.

    mavis compare [--values DIR] [--prompts FILE] [--samples 4] [--run-dir runs/compare] [--out FILE.json]

For each objective alone and for all together: replies of the base, replies tilted by exact values, and replies tilted
by fast ones at strengths that cost less and more, between which fast scoring's gain at exact's cost is read off. All
share their prompts and seeds. Runs in the process of the command, with the engine in it; what an earlier run has
sampled is not sampled again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from training.errors import MeasurementError, RecipeError
from training.evaluate.checkpoint import (
    BaseFolderOption,
    EvaluatedCheckpoint,
    OutOption,
    PromptsOption,
    ValuesOption,
    find_checkpoint,
    sampler_on,
    write_report,
)
from training.evaluate.slider_table import JOINT_WEIGHT, SliderSetting, settings_at
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.scored import Scored, scored_replies
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from training.statistics.bootstrap import Estimate
from training.statistics.equal_kl import Tilted, at_equal_cost, matching_strength
from valuemodels.contract.guidance import Guidance, Scoring

app = typer.Typer(invoke_without_command=True, help="Compare fast scoring with exact scoring.")

FAST_BETAS = (0.8, 1.25)
"""Strengths of the fast tilts. Both scorings are calibrated to cost alike, so exact's cost is between these two's."""


@dataclass(frozen=True, slots=True)
class FastStrength:
    """Fast tilts of one strength: what they gained and cost on average."""

    beta: float
    gain: float
    kl_nats: float


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One setting.

    Attributes:
        exact_gain: mean weighted shift of the rewards against the base's replies at the same seeds, in standard
            deviations of the base's reward; kl_nats: what that cost a reply.
        fast_gain: the same of fast scoring, at that KL; ratio: to exact's, None where exact scoring gains nothing.
        strengths: what was sampled for it.
    """

    setting: SliderSetting
    exact_gain: Estimate
    kl_nats: Estimate
    fast_gain: Estimate
    ratio: Estimate | None
    strengths: Sequence[FastStrength]


@app.callback()
def compare(
    values: ValuesOption = None,
    out: OutOption = None,
    prompts: PromptsOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt, under each condition.")] = 4,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N prompts.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 2,
    at_least: Annotated[
        float | None, typer.Option(help="Fail where the lower bound of a ratio of fast to exact is below this.")
    ] = None,
    run_dir: Annotated[Path, typer.Option(help="Where the replies are kept.")] = Path("runs/compare"),
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample every setting both ways, score the replies, print a table and write JSON."""
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        if not {"exact", "fast"} <= set(checkpoint.config.scorings):
            offers = " and ".join(checkpoint.config.scorings)
            raise RecipeError(f"{checkpoint.config.id} offers {offers} scoring alone: there is nothing to compare")
        sampler = sampler_on(checkpoint, run_dir, checkpoint.prompts(prompts, limit), max_tokens, seed)
        rows = measure(sampler, checkpoint, samples)
        print_rows(rows, sampler, samples)
        plan = {"checkpoint": checkpoint.config.id, "prompts": len(sampler.prompts), "samples": samples}
        write_report(out, {**plan, "max_tokens": max_tokens, "seed": seed, "rows": [asdict(row) for row in rows]})
        if at_least is not None:
            check_ratios(rows, at_least)


def measure(sampler: Sampler, checkpoint: EvaluatedCheckpoint, samples: int) -> list[ComparisonRow]:
    """Each objective alone at weight 1, and where there are several, all together."""
    chosen = settings_at(checkpoint.config.names, [1.0], JOINT_WEIGHT)
    total = len(sampler.prompts) * samples * (1 + len(chosen) * (1 + len(FAST_BETAS)))
    with progress("compare", total) as advance:
        base = scored_replies(sampler, checkpoint.rewards, Condition("base", None, samples), advance)
        return [_measure_setting(sampler, checkpoint, setting, base, advance) for setting in chosen]


def print_rows(rows: Sequence[ComparisonRow], sampler: Sampler, samples: int) -> None:
    """Print a line for each setting."""
    table = Table("weights", "KL, nats", "exact gain", "fast gain at that KL", "fast / exact")
    for row in rows:
        ratio = "exact gains nothing" if row.ratio is None else str(row.ratio)
        table.add_row(str(row.setting), str(row.kl_nats), str(row.exact_gain), str(row.fast_gain), ratio)
    console.print(table)
    size = f"{len(sampler.prompts)} prompts x {samples} samples"
    console.print(f"{size}; gains in the base's standard deviations; 95% intervals over prompts", soft_wrap=True)


def check_ratios(rows: Sequence[ComparisonRow], at_least: float) -> None:
    """
    Raises:
        MeasurementError: the lower bound of a setting's ratio is below `at_least`, or there is no ratio.
    """
    short = [str(row.setting) for row in rows if row.ratio is None or row.ratio.low < at_least]
    if short:
        raise MeasurementError(f"fast over exact is not surely {at_least:g} or more for {'; '.join(short)}")


def _measure_setting(
    sampler: Sampler, checkpoint: EvaluatedCheckpoint, setting: SliderSetting, base: Scored, advance: Advance
) -> ComparisonRow:
    def under(scoring: Scoring, beta: float) -> Tilted:
        guidance = Guidance("", weights=setting.weights, scoring=scoring, beta=beta)
        samples = base.kl_nats.shape[1]
        condition = Condition(f"{setting.folder_name}_{scoring}_{beta:g}x{samples}", guidance, samples)
        scored = scored_replies(sampler, checkpoint.rewards, condition, advance)
        return Tilted(_gain(scored, base, setting, checkpoint), scored.kl_nats)

    exact = under("exact", 1.0)
    fast = {beta: under("fast", beta) for beta in FAST_BETAS}
    target = fmean(exact.kl_nats.flat)
    costs = {beta: fmean(tilted.kl_nats.flat) for beta, tilted in fast.items()}
    if not min(costs.values()) <= target <= max(costs.values()):
        nearest = min(costs, key=lambda beta: abs(costs[beta] - target))
        # A little beyond, so that exact's cost comes to lie between two of them.
        factor = matching_strength(costs[nearest], target, str(setting)) ** 1.1
        beta = round(nearest * factor, 3)
        fast[beta] = under("fast", beta)
    found = at_equal_cost(list(fast.values()), exact)
    return ComparisonRow(
        setting=setting,
        exact_gain=found.reference_gain,
        kl_nats=found.kl_nats,
        fast_gain=found.gain,
        ratio=found.ratio,
        strengths=[
            FastStrength(beta, fmean(tilted.gain.flat), fmean(tilted.kl_nats.flat)) for beta, tilted in fast.items()
        ],
    )


def _gain(
    scored: Scored, base: Scored, setting: SliderSetting, checkpoint: EvaluatedCheckpoint
) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    std = {objective.name: objective.std for objective in checkpoint.config.objectives}
    shifts = [
        weight * (scored.rewards[name] - base.rewards[name]) / std[name] for name, weight in setting.weights.items()
    ]
    gain: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = np.sum(shifts, axis=0) / sum(setting.weights.values())
    return gain
