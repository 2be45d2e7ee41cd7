"""`mavis bench sizes`: how many GPUs so many people need, and what a million tokens cost; computed, not measured.

    mavis bench sizes [--answers 20] [--tokens 300] [--peak 5] [--reached 0.5] [--rows 128] [--out sizes.md]

From the same shapes and data sheets as `roofline`. A base is split over as few GPUs of an engine as hold it (tensor
parallel); every one of them holds all value models, and does all of their work. Standard library, typer and rich.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from training.bench.roofline import (
    BASES,
    BF16,
    DEVICES,
    TRUNKS,
    Decoder,
    Device,
    Load,
    base_step,
    exact_step,
    fast_step,
)
from training.runs.progress import console

PEOPLE = (1_000, 10_000, 100_000, 1_000_000)
USABLE = 0.9
"""Of a GPU's memory: vLLM's own default."""
DAY_S, HOUR_S = 86_400, 3_600


@dataclass(frozen=True, slots=True)
class Demand:
    """What people ask for.

    Attributes:
        answers, tokens: a day and person, and of an answer.
        peak: the busiest hour's tokens a second over the day's mean.
        reached: the share of what is computed here that a real server reaches, plain or guided.
    """

    answers: float
    tokens: float
    peak: float
    reached: float

    def tokens_per_s(self, people: int) -> float:
        """At the peak."""
        return people * self.answers * self.tokens / DAY_S * self.peak


def gpus_of_an_engine(device: Device, base: Decoder, load: Load) -> int:
    """As few as hold the base, what it keeps of its rows, and the largest trunk, which each of them holds whole."""
    trunk = TRUNKS[-1]
    split = base.forward(load.rows, 1, load.context).bytes + BF16 * 2 * base.vocabulary * base.hidden
    whole = trunk.forward(load.rows, 1, load.context).bytes + BF16 * trunk.vocabulary * trunk.hidden
    gpus = 1
    while split / gpus + whole > USABLE * device.memory_gb * 1e9:
        gpus *= 2
    return gpus


def tokens_per_s(device: Device, base: Decoder, load: Load) -> dict[str, float]:
    """Of an engine at the most: plain, by fast scoring, and by exact scoring with every trunk."""
    plain = device.ms(base_step(base, load)) / gpus_of_an_engine(device, base, load)
    more = {"plain": 0.0, "fast": device.ms(fast_step(base, load))}
    more |= {f"exact, {trunk.name}": device.ms(exact_step(base, trunk, load)) for trunk in TRUNKS}
    return {name: 1e3 * load.rows / (plain + ms) for name, ms in more.items()}


def table(device: Device, base: Decoder, load: Load, demand: Demand) -> str:
    """GPUs for so many people, and GPU-hours a million tokens, in Markdown."""
    gpus, speeds = gpus_of_an_engine(device, base, load), tokens_per_s(device, base, load)
    header = ["people", "tokens/s at the peak", *speeds]
    lines = [header, ["---"] * len(header)]
    for people in PEOPLE:
        asked = demand.tokens_per_s(people)
        engines = [math.ceil(asked / (speed * demand.reached)) for speed in speeds.values()]
        lines.append([f"{people:,}", f"{asked:,.0f}", *(f"{gpus * number:,}" for number in engines)])
    hours = [gpus * 1e6 / (speed * demand.reached * HOUR_S) for speed in speeds.values()]
    lines.append(["GPU-hours a million tokens, busy", "", *(f"{each:.3f}" for each in hours)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(load: Load, demand: Demand) -> str:
    """All tables, with what they are."""
    parts = [
        "# How many GPUs: computed, not measured\n",
        f"`mavis bench sizes`: each person asks for {demand.answers:g} answers of {demand.tokens:g} tokens a day, and "
        f"the busiest hour asks {demand.peak:g} times as much as the mean one. An engine works on {load.rows} "
        f"sequences of {load.context:,} tokens at once, {load.candidates} candidates and {load.objectives} objectives "
        f"each, and reaches {demand.reached:.0%} of [what is computed](gpu.md), plain or guided: a guess, for you to "
        "measure. An engine has as few GPUs as hold the base (tensor parallel); each of them holds all value models "
        "and does all of their work, so the more GPUs an engine has, the more of a step is exact scoring's. The last "
        "line is for engines that are always busy: with the price of a GPU-hour it is the price of a million tokens.\n",
    ]
    for device in DEVICES:
        for base in BASES:
            gpus = gpus_of_an_engine(device, base, load)
            parts += [f"## {base.name} on {device.name}, {gpus} an engine\n", table(device, base, load, demand) + "\n"]
    return "\n".join(parts)


def bench_sizes(
    answers: Annotated[float, typer.Option(min=0.001, help="A day and person.")] = 20,
    tokens: Annotated[float, typer.Option(min=1, help="Of an answer.")] = 300,
    peak: Annotated[float, typer.Option(min=1, help="The busiest hour over the mean one.")] = 5,
    reached: Annotated[float, typer.Option(min=0.01, max=1, help="Share of the bound that a server reaches.")] = 0.5,
    rows: Annotated[int, typer.Option(min=1, help="Sequences that an engine works on at once.")] = 128,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 1000,
    candidates: Annotated[int, typer.Option(min=1)] = 40,
    objectives: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Compute how many GPUs so many people need, and what a million tokens cost."""
    text = page(Load(rows, context, candidates, objectives), Demand(answers, tokens, peak, reached))
    if out is None:
        console.print(text, soft_wrap=True, markup=False)
    else:
        out.write_text(text, encoding="utf-8")
        console.print(f"written to {out}", soft_wrap=True)
