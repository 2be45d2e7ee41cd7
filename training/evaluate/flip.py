"""`mavis flip`: what a slider that is flipped halfway does to each half of a text.

    mavis flip [--objective positivity] [--weight 1] [--values DIR] [--prompts FILE] [--out FILE.json]

By a `schedule`, as a request's: the weight changes its sign at the middle token. Each half is scored by itself, against
the same half of the base's own reply at the same seed. Runs in the process of the command, with the engine in it.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from training.errors import RecipeError
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
from training.rewards.reward import load_reward
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.shards import Rollout
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console, progress
from training.statistics.bootstrap import Estimate, mean_estimate
from valuemodels.contract.guidance import Guidance, ScheduledChange, Scoring

app = typer.Typer(invoke_without_command=True, help="Flip a slider halfway, and measure both halves.")
Halves = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class FlipRow:
    """One course of the weight: how far each half's reward is from the base's, in its standard deviations."""

    course: str
    first: Estimate
    second: Estimate
    kl_nats: Estimate


@app.callback()
def flip(
    objective: Annotated[str, typer.Option(help="Which slider.")] = "positivity",
    weight: Annotated[float, typer.Option(help="Its weight in the first half.")] = 1.0,
    values: ValuesOption = None,
    prompts: PromptsOption = None,
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt.")] = 3,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N prompts.")] = 40,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of a reply; half of them are a half.")] = 96,
    scoring: Annotated[Scoring | None, typer.Option(help="The checkpoint's default if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 5,
    out: OutOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample with the weight as it is, flipped halfway, and flipped the other way; print a table and write JSON."""
    with errors_in_one_sentence(), tempfile.TemporaryDirectory(prefix="mavis-flip-") as folder:
        checkpoint = find_checkpoint(values, base_folder)
        if objective not in checkpoint.rewards:
            raise RecipeError(f"objective: got {objective!r}, allowed is one of {', '.join(checkpoint.rewards)}")
        chosen = checkpoint.scoring(scoring)
        sampler = sampler_on(checkpoint, Path(folder), checkpoint.prompts(prompts, limit), max_tokens, seed)
        courses = courses_of(objective, weight, max_tokens // 2, chosen)
        rows = _measured(checkpoint, sampler, objective, courses, samples)
        _print(rows, objective, sampler, samples)
        figures = {"objective": objective, "weight": weight, "scoring": chosen, "max_tokens": max_tokens}
        write_report(out, {**_about(checkpoint, sampler, samples), **figures, "rows": [asdict(row) for row in rows]})


def courses_of(objective: str, weight: float, middle: int, scoring: Scoring) -> dict[str, Guidance]:
    """Name -> how the weight goes along the text."""

    def course(first: float, second: float) -> Guidance:
        turn = ScheduledChange(middle, {"objective_weights": {objective: second}})
        return Guidance("", {objective: first}, scoring=scoring, schedule=(turn,) if first != second else ())

    return {
        f"{weight:+g} throughout": course(weight, weight),
        f"{weight:+g}, then {-weight:+g}": course(weight, -weight),
        f"{-weight:+g}, then {weight:+g}": course(-weight, weight),
        f"{-weight:+g} throughout": course(-weight, -weight),
    }


def halves_of(token_ids: Sequence[int], middle: int) -> tuple[Sequence[int], Sequence[int]]:
    """The tokens before the middle, and those from there on."""
    return token_ids[:middle], token_ids[middle:]


def _measured(
    checkpoint: EvaluatedCheckpoint,
    sampler: Sampler,
    objective: str,
    courses: Mapping[str, Guidance],
    samples: int,
) -> list[FlipRow]:
    std = next(each.std for each in checkpoint.config.objectives if each.name == objective)
    rows: list[FlipRow] = []
    with progress("flip", (1 + len(courses)) * len(sampler.prompts) * samples) as advance:
        base = sampler.replies(Condition("base", None, samples), advance)
        rewards_of = _reward_of_halves(checkpoint, sampler, objective)
        of_base = rewards_of(base)
        for number, (name, guidance) in enumerate(courses.items()):
            replies = sampler.replies(Condition(f"course_{number}", guidance, samples), advance)
            shifts = [(own - plain) / std for own, plain in zip(rewards_of(replies), of_base, strict=True)]
            kl_nats = np.reshape([reply.kl_nats for reply in replies], shifts[0].shape)
            first, second = map(mean_estimate, shifts)
            rows.append(FlipRow(name, first, second, mean_estimate(kl_nats)))
    return rows


def _reward_of_halves(
    checkpoint: EvaluatedCheckpoint, sampler: Sampler, objective: str
) -> Callable[[Sequence[Rollout]], Halves]:
    """What gives the rewards of replies' halves, [prompts, samples] each; a half that is empty has the base's mean.

    A half is judged as a text of its own, so the reward must make sense of one that begins in the middle.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.base, trust_remote_code=False)
    reward = load_reward(checkpoint.rewards[objective])
    prompts = {prompt.prompt_id: prompt.text for prompt in sampler.prompts}
    mean = next(each.mean for each in checkpoint.config.objectives if each.name == objective)

    def of(replies: Sequence[Rollout], half: int) -> NDArray[np.float64]:
        ids = [halves_of(reply.output_token_ids, sampler.limits.max_tokens // 2)[half] for reply in replies]
        texts = [tokenizer.decode(own, skip_special_tokens=True) for own in ids]
        scores = reward([prompts[reply.prompt_id] for reply in replies], texts)
        kept = [score if text.strip() else mean for score, text in zip(scores, texts, strict=True)]
        return np.reshape(np.asarray(kept, dtype=float), (len(sampler.prompts), -1))

    return lambda replies: (of(replies, 0), of(replies, 1))


def _about(checkpoint: EvaluatedCheckpoint, sampler: Sampler, samples: int) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.config.id,
        "prompts": len(sampler.prompts),
        "samples": samples,
        "seed": sampler.seed,
    }


def _print(rows: Sequence[FlipRow], objective: str, sampler: Sampler, samples: int) -> None:
    table = Table(objective, "first half, base std", "second half, base std", "KL, nats")
    for row in rows:
        table.add_row(row.course, str(row.first), str(row.second), str(row.kl_nats))
    console.print(table)
    size = f"{len(sampler.prompts)} prompts x {samples} samples"
    console.print(f"{size}, at most {sampler.limits.max_tokens} tokens, T = 1; against the base's halves, same seeds")
