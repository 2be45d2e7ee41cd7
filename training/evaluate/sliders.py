"""`mavis evaluate`: what each slider does, measured on prompts that nothing was trained on.

    mavis evaluate [--values DIR] [--out FILE.json] [--prompts FILE] [--weights -1,-0.5,0,0.5,1]

Samples through the real engine and the guide that serves. Runs in the process of the command, with the engine in it;
with `--run-dir`, what an earlier run has sampled there is not sampled again.
"""

import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from training.errors import RecipeError
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
from training.evaluate.gaming import best_replies, print_best
from training.evaluate.slider_summary import NATS, SliderSummary, slider_summaries
from training.evaluate.slider_table import SliderRow, SliderSetting, monotone_failures, slider_rows, slider_settings
from training.rewards.reward import refuse_constant
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.scored import Scored, scored_replies
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console, progress
from valuemodels.contract.guidance import Guidance, Scoring

AlsoOption = Annotated[
    list[str] | None, typer.Option(help="Another reward to score replies by, which nothing learned; again for more.")
]

app = typer.Typer(invoke_without_command=True, help="Measure what each slider does.")


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sampled.

    Attributes:
        samples: replies a prompt, in each setting; the settings share their seeds.
        scoring: of the tilted settings.
    """

    settings: Sequence[SliderSetting]
    samples: int
    scoring: Scoring


@app.callback()
def evaluate(
    context: typer.Context,
    values: ValuesOption = None,
    out: OutOption = None,
    prompts: PromptsOption = None,
    objective: ObjectiveOption = None,
    weights: Annotated[str, typer.Option(help="Weights each objective is tried at, alone.")] = "-1,-0.5,0,0.5,1",
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt.")] = 3,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N prompts.")] = 40,
    scoring: Annotated[Scoring | None, typer.Option(help="The checkpoint's default if not given.")] = None,
    best: Annotated[int, typer.Option(min=0, help="Show so many of the replies that each reward likes best.")] = 2,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    also: AlsoOption = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Keep the replies here, and go on from what is there already.")
    ] = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample at every setting of the sliders, score the replies, print a table and write JSON."""
    if context.invoked_subcommand is not None:
        return
    with errors_in_one_sentence(), _kept_or_temporary(run_dir) as folder:
        checkpoint = find_checkpoint(values, base_folder)
        tried = slider_settings(checkpoint.sliders(objective), _numbers(weights))
        plan = Plan(tried, samples, checkpoint.scoring(scoring))
        sampler = sampler_on(checkpoint, folder, checkpoint.prompts(prompts, limit), max_tokens, seed)
        started = time.monotonic()
        others = _others(also or [], checkpoint)
        scored = measure(plan, checkpoint.rewards, others, sampler)
        own_std = {objective.name: objective.std for objective in checkpoint.config.objectives}
        base_std = own_std | {reward: float(scored[0].rewards[reward].std()) for reward in others}
        rows = slider_rows(plan.settings, scored, base_std)
        print_rows(rows, checkpoint.config.names, plan, sampler)
        summaries = slider_summaries(plan.settings, scored, checkpoint.config.names, base_std)
        print_summaries(summaries, others)
        print_best(liked := best_replies(plan.settings, scored, sampler.texts, checkpoint.config.names, best))
        report = _report(rows, plan, checkpoint, sampler, time.monotonic() - started)
        found = {"sliders": map(asdict, summaries), "best_replies": map(asdict, liked)}
        write_report(out, {**report, "base_std": base_std, **{name: list(each) for name, each in found.items()}})


def measure(plan: Plan, rewards: Mapping[str, str], others: Sequence[str], sampler: Sampler) -> list[Scored]:
    """Sample every setting, and score it by all rewards; the first is the base.

    Raises:
        RewardError: one of the others cannot be had, or tells none of the base's replies apart.
    """
    every = {**rewards, **{reward: reward for reward in others}}
    base, *tilted = plan.settings
    with progress("evaluate", len(plan.settings) * len(sampler.prompts) * plan.samples) as advance:
        scored = [scored_replies(sampler, every, _condition(base, plan), advance)]
        for reward in others:  # now, and not when all is sampled
            refuse_constant(reward, scored[0].rewards[reward].ravel().tolist())
        return scored + [scored_replies(sampler, every, _condition(setting, plan), advance) for setting in tilted]


def print_rows(rows: Sequence[SliderRow], names: Sequence[str], plan: Plan, sampler: Sampler) -> None:
    """Print a line for each setting, and where a slider does not move its reward the right way."""
    columns = [column for name in names for column in (name, "in base std")]
    table = Table("weights", *columns, "KL, nats", "distinct-2", "tokens")
    for row in rows:
        figures = [
            str(figure) for name in names for figure in (row.objectives[name].reward, row.objectives[name].shift)
        ]
        table.add_row(str(row.setting), *figures, str(row.kl_nats), f"{row.distinct_2:.2f}", f"{row.tokens:.0f}")
    console.print(table)
    size = f"{len(sampler.prompts)} prompts x {plan.samples} samples"
    console.print(f"{size}, at most {sampler.limits.max_tokens} tokens, T = 1")
    for failure in monotone_failures(rows, names):
        console.print(f"[yellow]not monotone:[/yellow] {failure}")


def print_summaries(summaries: Sequence[SliderSummary], also: Sequence[str]) -> None:
    """Print a line for each slider."""
    table = Table("slider", "follows its weight", f"gain at {NATS:g} nats", *(f"by {reward}" for reward in also))
    for each in summaries:
        others = (str(each.follows[reward]) for reward in also)
        table.add_row(each.objective, str(each.follows[each.objective]), str(each.gain or "-"), *others)
    console.print(table)
    console.print("rank correlation of weight and mean reward; gains in standard deviations of the base's reward")
    names = list(dict.fromkeys([each.objective for each in summaries]))
    effects = Table("largest weight of", *names)
    for each in summaries:
        effects.add_row(each.objective, *(str(each.effects[name]) for name in names))
    console.print(effects)
    console.print("what it does to every reward, in the base's standard deviations", soft_wrap=True)


def _others(also: Sequence[str], checkpoint: EvaluatedCheckpoint) -> list[str]:
    for reward in also:
        if reward in checkpoint.rewards:
            raise RecipeError(f"also: got {reward!r}, allowed is a reward that is none of the checkpoint's objectives")
    return list(dict.fromkeys(also))


@contextmanager
def _kept_or_temporary(folder: Path | None) -> Iterator[Path]:
    if folder is not None:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="mavis-evaluate-") as temporary:
        yield Path(temporary)


def _condition(setting: SliderSetting, plan: Plan) -> Condition:
    guidance = None if setting.is_base else Guidance("", weights=setting.weights, scoring=plan.scoring)
    return Condition(setting.folder_name, guidance, plan.samples)


def _numbers(text: str) -> list[float]:
    try:
        numbers = sorted({float(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise RecipeError(f"weights: got {text!r}, allowed is numbers with commas between them")
    return numbers


def _report(
    rows: Sequence[SliderRow], plan: Plan, checkpoint: EvaluatedCheckpoint, sampler: Sampler, seconds: float
) -> dict[str, Any]:
    config = checkpoint.config
    return {
        "checkpoint": config.id,
        "prompts": len(sampler.prompts),
        "samples": plan.samples,
        "max_tokens": sampler.limits.max_tokens,
        "temperature": sampler.limits.temperature,
        "seed": sampler.seed,
        "scoring": plan.scoring,
        "rows": [asdict(row) for row in rows],
        "not_monotone": monotone_failures(rows, config.names),
        "seconds": round(seconds),
    }
