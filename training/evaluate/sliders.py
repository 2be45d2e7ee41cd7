"""`mavis evaluate`: what each slider does, measured on prompts that nothing was trained on.

    mavis evaluate [--values DIR] [--out FILE.json] [--prompts FILE] [--weights -1,-0.5,0,0.5,1]

Samples through the real engine and the guide that serves. Runs in the process of the command, with the engine in it.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table

from training.errors import EXPECTED_ERRORS, fail
from training.evaluate.checkpoint import BaseFolderOption, OutOption, Subject, ValuesOption, find_subject, write_report
from training.progress import console, progress
from training.prompt_set import read_texts, render_chat
from training.prompts.files import Fractions, Prompt, load_prompts, split
from training.recipe import EngineRecipe, RecipeError, read_recipe
from training.rewards import load_reward
from training.rollout import Limits, Reply, Request, RolloutEngine, request_seed
from training.slider_table import Row, Setting, monotone_failures, slider_settings, table_row
from valuemodels.contract.guidance import Guidance, Scoring
from valuemodels.contract.value_config import ValueConfig

app = typer.Typer(invoke_without_command=True, help="Measure what each slider does.")

_BATCH = 256


@dataclass(frozen=True, slots=True)
class Plan:
    """What is sampled.

    Attributes:
        samples: replies a prompt, in each setting; the settings share their seeds.
        scoring: of the tilted settings.
    """

    prompts: Sequence[Prompt]
    settings: Sequence[Setting]
    samples: int
    limits: Limits
    seed: int
    scoring: Scoring


@app.callback()
def evaluate(
    values: ValuesOption = None,
    out: OutOption = None,
    prompts: Annotated[
        Path | None, typer.Option(help='JSON lines with a "prompt"; the recipe\'s test prompts if not given.')
    ] = None,
    weights: Annotated[str, typer.Option(help="Weights each objective is tried at, alone.")] = "-1,-0.5,0,0.5,1",
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt.")] = 3,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N prompts.")] = 40,
    scoring: Annotated[Scoring | None, typer.Option(help="The checkpoint's default if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 1,
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample at every setting of the sliders, score the replies, print a table and write JSON."""
    try:
        subject = find_subject(values, base_folder)
        plan = Plan(
            prompts=(_texts_as_prompts(prompts) if prompts else _test_prompts(subject.config))[:limit],
            settings=slider_settings(subject.config.names, _numbers(weights)),
            samples=samples,
            limits=Limits(max_tokens),
            seed=seed,
            scoring=subject.scoring(scoring),
        )
        started = time.monotonic()
        rows = measure(plan, subject)
        print_rows(rows, plan)
        write_report(out, _report(rows, plan, subject.config, time.monotonic() - started))
    except EXPECTED_ERRORS as error:
        fail(error)


def measure(plan: Plan, subject: Subject) -> list[Row]:
    """Sample and score every setting; the first row is the base's."""
    engine = RolloutEngine(subject.base, EngineRecipe(), subject.guide)
    replies = _sample(engine, plan, subject.base)
    rewards = [_rewards(plan, subject.config, of_setting) for of_setting in replies]
    base_std = {objective.name: objective.std for objective in subject.config.objectives}
    return [
        table_row(setting, of_setting, measured, rewards[0], base_std)
        for setting, of_setting, measured in zip(plan.settings, replies, rewards, strict=True)
    ]


def print_rows(rows: Sequence[Row], plan: Plan) -> None:
    """The table, and whether every slider moves its reward the right way at every step."""
    names = list(rows[0].objectives)
    columns = [column for name in names for column in (name, "in base std")]
    table = Table("weights", *columns, "KL, nats", "distinct-2", "tokens")
    for row in rows:
        figures = [
            str(figure) for name in names for figure in (row.objectives[name].reward, row.objectives[name].shift)
        ]
        table.add_row(str(row.setting), *figures, str(row.kl_nats), f"{row.distinct_2:.2f}", f"{row.tokens:.0f}")
    console.print(table)
    console.print(
        f"{len(plan.prompts)} prompts x {plan.samples} samples, at most {plan.limits.max_tokens} tokens, T = 1"
    )
    for failure in monotone_failures(rows):
        console.print(f"[yellow]not monotone:[/yellow] {failure}")


def _sample(engine: RolloutEngine, plan: Plan, base: str) -> list[list[Reply]]:
    """The replies of each setting, prompt by prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    chats = {prompt.id: render_chat(tokenizer, prompt.text) for prompt in plan.prompts}
    replies: list[list[Reply]] = []
    total = len(plan.settings) * len(plan.prompts) * plan.samples
    with progress("evaluate", total) as advance:
        for number, setting in enumerate(plan.settings):
            requests = [
                Request(prompt.id, chats[prompt.id], sample, request_seed(plan.seed, prompt.id, sample), guidance)
                for prompt in plan.prompts
                for sample in range(plan.samples)
                for guidance in [_guidance(setting, plan.scoring, f"{number}-{prompt.id}-{sample}")]
            ]
            replies.append([])
            for start in range(0, len(requests), _BATCH):
                replies[-1] += engine.sample(requests[start : start + _BATCH], plan.limits)
                advance(len(requests[start : start + _BATCH]), str(setting))
    return replies


def _guidance(setting: Setting, scoring: Scoring, generation_id: str) -> Guidance | None:
    return None if setting.is_base else Guidance(generation_id, weights=setting.weights, scoring=scoring)


def _rewards(plan: Plan, config: ValueConfig, replies: Sequence[Reply]) -> dict[str, np.ndarray[Any, Any]]:
    """Objective -> rewards [prompts, samples]."""
    texts = {prompt.id: prompt.text for prompt in plan.prompts}
    prompts = [texts[reply.prompt_id] for reply in replies]
    shape = (len(plan.prompts), plan.samples)
    return {
        objective.name: np.reshape(load_reward(objective.reward)(prompts, [reply.text for reply in replies]), shape)
        for objective in config.objectives
    }


def _test_prompts(config: ValueConfig) -> tuple[Prompt, ...]:
    """The prompts that the checkpoint's recipe kept for testing."""
    try:
        recipe = read_recipe(config.training.recipe)
    except RecipeError as error:
        raise RecipeError(f"{error}; or give --prompts FILE") from None
    return split(load_prompts(recipe.prompts_path), Fractions(**recipe.split.model_dump())).test


def _texts_as_prompts(path: Path) -> tuple[Prompt, ...]:
    return tuple(Prompt.of(text, "question") for text in read_texts(path))


def _numbers(text: str) -> list[float]:
    try:
        numbers = sorted({float(part) for part in text.split(",")})
    except ValueError:
        numbers = []
    if not numbers or not all(map(math.isfinite, numbers)):
        raise RecipeError(f"weights: got {text!r}, allowed is numbers with commas between them")
    return numbers


def _report(rows: Sequence[Row], plan: Plan, config: ValueConfig, seconds: float) -> dict[str, Any]:
    return {
        "checkpoint": config.id,
        "prompts": len(plan.prompts),
        "samples": plan.samples,
        "max_tokens": plan.limits.max_tokens,
        "temperature": plan.limits.temperature,
        "seed": plan.seed,
        "scoring": plan.scoring,
        "base_std": {objective.name: objective.std for objective in config.objectives},
        "rows": [asdict(row) for row in rows],
        "not_monotone": monotone_failures(rows),
        "seconds": round(seconds),
    }
