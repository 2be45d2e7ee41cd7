"""`mavis evaluate optimum`: how much of what any policy could gain at its KL a slider gains.

    mavis evaluate optimum [--values DIR] [--objective NAME] [--weights 0.5,1] [--run-dir DIR] [--out FILE.json]

Runs in the process of the command, with the engine in it. Must not import torch or vllm.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from training.errors import RecipeError
from training.evaluate.best_policy import Nearness, nearness
from training.evaluate.checkpoint import (
    BaseFolderOption,
    EvaluatedCheckpoint,
    ObjectiveOption,
    OutOption,
    PromptsOption,
    ValuesOption,
    find_checkpoint,
    sampler_on,
    write_report,
)
from training.rollouts.measured import measured
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.scored import scored_replies
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console, progress
from valuemodels.contract.guidance import Guidance, Scoring
from valuemodels.contract.policy import DEFAULT_CANDIDATES, DEFAULT_MAX_CANDIDATES

FEW = 20
"""Effective replies below which the best policy's figures are marked as shaky."""


@dataclass(frozen=True, slots=True)
class OptimumRow:
    """A slider at a weight, beside the best policies."""

    objective: str
    weight: float
    near: Nearness


@dataclass(frozen=True, slots=True)
class Start:
    """What all of the policies start from, the tilts and the best.

    Attributes:
        samples: the base's replies a prompt, which are weighed.
        top_k: of what is left of it at each token, so many likeliest ones; None: all.
    """

    samples: int
    top_k: int | None

    @property
    def condition(self) -> Condition:
        """Its replies."""
        cut = "" if self.top_k is None else f"_k{self.top_k}"
        return Condition(f"base_x{self.samples}{cut}", None, self.samples)


def optimum(
    values: ValuesOption = None,
    objective: ObjectiveOption = None,
    weights: Annotated[str, typer.Option(help="Weights each is tried at, alone.")] = "0.5,1",
    candidates: Annotated[
        int, typer.Option(min=1, max=DEFAULT_MAX_CANDIDATES, help="Of the tilt, at each token.")
    ] = DEFAULT_CANDIDATES,
    prompts: PromptsOption = None,
    limit: Annotated[int, typer.Option(min=2, help="Use the first N prompts.")] = 24,
    base_samples: Annotated[int, typer.Option(min=2, help="The base's replies a prompt, which are weighed.")] = 128,
    samples: Annotated[int, typer.Option(min=1, help="The tilt's replies a prompt.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of a reply.")] = 64,
    scoring: Annotated[Scoring | None, typer.Option(help="The checkpoint's default if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 11,
    truncated: Annotated[
        bool, typer.Option("--truncated", help="Leave out what the tilt's cut to the likeliest tokens does by itself.")
    ] = False,
    run_dir: Annotated[Path, typer.Option(help="Where the replies are kept.")] = Path("runs/optimum"),
    out: OutOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Set every slider beside the policy that gains the most at its KL; print a table and write JSON."""
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        names = checkpoint.sliders(objective)
        chosen = checkpoint.scoring(scoring)
        sampler = sampler_on(checkpoint, run_dir, checkpoint.prompts(prompts, limit), max_tokens, seed)
        tilts = {
            (name, weight): Guidance("", {name: weight}, scoring=chosen, candidates=candidates)
            for name in names
            for weight in _weights(weights)
        }
        start = Start(base_samples, candidates if truncated else None)
        rows = _measured(checkpoint, sampler, tilts, start, samples)
        _print(rows, sampler, start)
        about = {"checkpoint": checkpoint.config.id, "scoring": chosen, "candidates": candidates, "seed": seed}
        about["truncated"] = truncated
        sizes = {"prompts": len(sampler.prompts), "base_samples": base_samples, "samples": samples}
        write_report(out, {**about, **sizes, "max_tokens": max_tokens, "rows": [asdict(row) for row in rows]})


def _measured(
    checkpoint: EvaluatedCheckpoint,
    sampler: Sampler,
    tilts: Mapping[tuple[str, float], Guidance],
    start: Start,
    samples: int,
) -> list[OptimumRow]:
    stds = {objective.name: objective.std for objective in checkpoint.config.objectives}
    rewards = {name: checkpoint.rewards[name] for name, _ in tilts}
    with progress("optimum", len(sampler.prompts) * (start.samples + len(tilts) * samples)) as advance:
        plain = replace(sampler, limits=replace(sampler.limits, top_k=start.top_k))
        base = scored_replies(plain, rewards, start.condition, advance)
        rows = []
        # Sampling from the likeliest tokens alone costs, too.
        for (name, weight), guidance in tilts.items():
            tilted = replace(sampler, limits=replace(sampler.limits, read_top=guidance.candidates))
            parts = (guidance.scoring, name, f"{weight:g}", f"k{guidance.candidates}", f"x{samples}")
            condition = Condition("_".join(map(str, parts)), guidance, samples)
            scored = scored_replies(tilted, {name: rewards[name]}, condition, advance)
            kl_nats = measured(scored, 0.0).kl_nats if start.top_k is None else scored.kl_nats
            # A weight below 0 asks for less of the reward.
            unit = math.copysign(stds[name], weight)
            near = nearness(base.rewards[name] / unit, scored.rewards[name] / unit, kl_nats)
            rows.append(OptimumRow(name, weight, near))
    return rows


def _weights(text: str) -> list[float]:
    try:
        weights = list(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        weights = [math.nan]
    if not all(math.isfinite(weight) and weight for weight in weights):
        raise RecipeError(f"weights: got {text!r}, allowed is numbers other than 0 with commas between them")
    return weights


def _print(rows: Sequence[OptimumRow], sampler: Sampler, start: Start) -> None:
    cut = "" if start.top_k is None else f", cut to its {start.top_k} likeliest tokens"
    title = (
        f"{len(sampler.prompts)} prompts, {start.samples} replies of the base{cut}, {sampler.limits.max_tokens} tokens"
    )
    table = Table(title=f"{title}; in standard deviations of the base's reward", title_justify="left")
    table.add_column("slider", no_wrap=True)
    for column in ("KL, nats", "gain", "best at this KL", "share", "to the best, nats", "replies that count"):
        table.add_column(column)
    for row in rows:
        near = row.near
        shaky = " (few)" if near.effective < FEW else ""
        figures = (near.kl_nats, near.gain, near.best, near.share, near.gap_nats)
        table.add_row(f"{row.objective} {row.weight:+g}", *map(str, figures), f"{near.effective:.0f}{shaky}")
    console.print(table)
