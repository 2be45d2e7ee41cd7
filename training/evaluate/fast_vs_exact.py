"""`mavis compare`: what fast scoring keeps of exact scoring's gain, at the same KL, on held-out prompts.

    mavis compare [--values DIR] [--samples 32] [--run-dir runs/compare] [--out FILE.json]

For each objective alone and for all together: replies of the base, replies tilted by exact values, and replies tilted
by fast ones with a strength that costs as much. Runs in the process of the command, with the engine in it; what an
earlier run has sampled is not sampled again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from training.errors import RecipeError
from training.evaluate.bootstrap import Estimate, mean_estimate
from training.evaluate.checkpoint import (
    BaseFolderOption,
    EvaluatedCheckpoint,
    OutOption,
    ValuesOption,
    find_checkpoint,
    write_report,
)
from training.evaluate.equal_kl import kept_gain, matching_strength
from training.evaluate.scored import Scored, sampler_on, scored_replies
from training.evaluate.slider_table import JOINT_WEIGHT, SliderSetting, settings_at
from training.rollouts.sampler import Condition, Sampler
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from valuemodels.contract.guidance import Guidance, Scoring

app = typer.Typer(invoke_without_command=True, help="Compare fast scoring with exact scoring.")

_PILOT_SAMPLES = 4


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One setting.

    Attributes:
        gain: mean weighted shift of the rewards against the base's replies at the same seeds, in standard deviations
            of the base's reward; kl_nats: a reply.
        beta: strength of the fast tilt.
        kept: fast gain over exact gain, at exact's KL; None where exact scoring gains nothing.
    """

    setting: SliderSetting
    exact_gain: Estimate
    exact_kl_nats: Estimate
    fast_gain: Estimate
    fast_kl_nats: Estimate
    beta: float
    kept: Estimate | None


@app.callback()
def compare(
    values: ValuesOption = None,
    out: OutOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt, under each condition.")] = 32,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N of the recipe's test prompts.")] = 64,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    seed: Annotated[int, typer.Option(min=0)] = 2,
    run_dir: Annotated[Path, typer.Option(help="Where the replies are kept.")] = Path("runs/compare"),
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample every setting both ways, score the replies, print a table and write JSON."""
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        if "fast" not in checkpoint.config.scorings:
            raise RecipeError(f"{checkpoint.config.id} offers no fast scoring; make it with `mavis train distill`")
        sampler = sampler_on(checkpoint, run_dir, checkpoint.prompts(None, limit), max_tokens, seed)
        rows = measure(sampler, checkpoint, samples)
        print_rows(rows, sampler, samples)
        plan = {"checkpoint": checkpoint.config.id, "prompts": len(sampler.prompts), "samples": samples}
        write_report(out, {**plan, "max_tokens": max_tokens, "seed": seed, "rows": [asdict(row) for row in rows]})


def measure(sampler: Sampler, checkpoint: EvaluatedCheckpoint, samples: int) -> list[ComparisonRow]:
    """Each objective alone at weight 1, and where there are several, all together."""
    chosen = settings_at(checkpoint.config.names, [1.0], JOINT_WEIGHT)
    total = len(sampler.prompts) * (samples + len(chosen) * (2 * samples + min(samples, _PILOT_SAMPLES)))
    with progress("compare", total) as advance:
        base = scored_replies(sampler, checkpoint.config.objectives, Condition("base", None, samples), advance)
        return [_measure_setting(sampler, checkpoint, setting, samples, base, advance) for setting in chosen]


def print_rows(rows: Sequence[ComparisonRow], sampler: Sampler, samples: int) -> None:
    """Print a line for each setting."""
    table = Table("weights", "exact gain", "exact KL", "fast gain", "fast KL", "fast beta", "kept at equal KL")
    for row in rows:
        figures = (row.exact_gain, row.exact_kl_nats, row.fast_gain, row.fast_kl_nats)
        kept = "exact gains nothing" if row.kept is None else str(row.kept)
        table.add_row(str(row.setting), *map(str, figures), f"{row.beta:.2f}", kept)
    console.print(table)
    console.print(f"{len(sampler.prompts)} prompts x {samples} samples; gains in base standard deviations, KL in nats")


def _measure_setting(
    sampler: Sampler,
    checkpoint: EvaluatedCheckpoint,
    setting: SliderSetting,
    samples: int,
    base: Scored,
    advance: Advance,
) -> ComparisonRow:
    def under(scoring: Scoring, size: int, beta: float = 1.0) -> Scored:
        guidance = Guidance("", weights=setting.weights, scoring=scoring, beta=beta)
        condition = Condition(f"{setting.folder_name}_{scoring}_{beta:g}x{size}", guidance, size)
        return scored_replies(sampler, checkpoint.config.objectives, condition, advance)

    exact = under("exact", samples)
    pilot = under("fast", min(samples, _PILOT_SAMPLES))
    beta = round(matching_strength(fmean(pilot.kl_nats.flat), fmean(exact.kl_nats.flat), str(setting)), 3)
    fast = under("fast", samples, beta)
    gains = {way: _gain(scored, base, setting, checkpoint) for way, scored in (("exact", exact), ("fast", fast))}
    return ComparisonRow(
        setting=setting,
        exact_gain=mean_estimate(gains["exact"]),
        exact_kl_nats=mean_estimate(exact.kl_nats),
        fast_gain=mean_estimate(gains["fast"]),
        fast_kl_nats=mean_estimate(fast.kl_nats),
        beta=beta,
        kept=kept_gain(gains["fast"], fast.kl_nats, gains["exact"], exact.kl_nats),
    )


def _gain(scored: Scored, base: Scored, setting: SliderSetting, checkpoint: EvaluatedCheckpoint) -> NDArray[np.float64]:
    std = {objective.name: objective.std for objective in checkpoint.config.objectives}
    shifts = [
        weight * (scored.rewards[name] - base.rewards[name]) / std[name] for name, weight in setting.weights.items()
    ]
    gain: NDArray[np.float64] = np.sum(shifts, axis=0) / sum(setting.weights.values())
    return gain
