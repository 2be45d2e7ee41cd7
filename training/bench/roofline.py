"""`mavis bench roofline`: what a step would take on GPUs at the least, computed from shapes. Nothing is measured.

    mavis bench roofline [--rows 1 --rows 32] [--context 1000] [--candidates 40] [--objectives 5] [--out gpu.md]

A step takes as long as its bytes from memory or its arithmetic, whichever is more. Launches of kernels, the copies
between them and all that vLLM does besides are left out on both sides. Standard library, typer and rich.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from training.runs.progress import console

HEAD_HIDDEN, HEAD_RANK = 512, 128
"""Of the fast heads that are trained here."""
BF16, FP32 = 2, 4


@dataclass(frozen=True, slots=True)
class Device:
    """A GPU by its data sheet: memory in TB/s and in GB, dense bfloat16 arithmetic in TFLOP/s."""

    name: str
    memory: float
    arithmetic: float
    memory_gb: float = math.inf

    def ms(self, work: "Work") -> float:
        """The least time of some work."""
        return 1e3 * max(work.bytes / (self.memory * 1e12), work.flops / (self.arithmetic * 1e12))


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes from memory, and floating-point operations."""

    bytes: float
    flops: float

    def __add__(self, other: "Work") -> "Work":
        return Work(self.bytes + other.bytes, self.flops + other.flops)


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder's shape."""

    name: str
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Of its layers, without embeddings."""
        attention = 2 * self.hidden * (self.heads + self.kv_heads) * self.head_dim
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    def forward(self, rows: int, tokens: int, context: int) -> Work:
        """Read `tokens` new ones of each of `rows` sequences of `context` tokens, which are read but once for all."""
        kv = rows * context * self.layers * 2 * self.kv_heads * self.head_dim
        attention = 4 * rows * tokens * context * self.layers * self.heads * self.head_dim
        return Work(BF16 * (self.parameters + kv), 2 * self.parameters * rows * tokens + attention)

    def logits(self, rows: int) -> Work:
        """From the last states."""
        parameters = self.vocabulary * self.hidden
        return Work(BF16 * parameters + FP32 * rows * self.vocabulary, 2 * parameters * rows)


DEVICES = (
    Device("L4", 0.300, 121, 24),
    Device("A100 80 GB", 2.04, 312, 80),
    Device("H100 SXM", 3.35, 989, 80),
)
BASES = (
    Decoder("8B (Llama 3.1)", 32, 4096, 14336, 32, 8, 128, 128_256),
    Decoder("70B (Llama 3.1)", 80, 8192, 28672, 64, 8, 128, 128_256),
)
TRUNKS = (
    Decoder("0.1B (SmolLM2 135M)", 30, 576, 1536, 9, 3, 64, 49_152),
    Decoder("0.5B (Qwen 2.5)", 24, 896, 4864, 14, 2, 64, 151_936),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What a step is about."""

    rows: int
    context: int
    candidates: int
    objectives: int


def base_step(base: Decoder, load: Load) -> Work:
    """Plain vLLM's."""
    return base.forward(load.rows, 1, load.context) + base.logits(load.rows)


def tilting(base: Decoder, load: Load) -> Work:
    """The candidates picked out of the logits, and everything else in them taken away: read twice, written once."""
    return Work(3 * FP32 * load.rows * base.vocabulary, 0)


def fast_step(base: Decoder, load: Load) -> Work:
    """What fast scoring adds."""
    weights = base.hidden * HEAD_HIDDEN + HEAD_HIDDEN * load.objectives * HEAD_RANK
    looked_up = load.rows * load.candidates * (HEAD_RANK + load.objectives)
    flops = 2 * load.rows * weights + 2 * looked_up * load.objectives
    return tilting(base, load) + Work(FP32 * (weights + looked_up), flops)


def exact_step(base: Decoder, trunk: Decoder, load: Load) -> Work:
    """What exact scoring adds: the trunk reads the newest token, and every candidate after it."""
    return tilting(base, load) + trunk.forward(load.rows, 1 + load.candidates, load.context)


def table(device: Device, base: Decoder, loads: Sequence[Load]) -> str:
    """Of one device and base, in Markdown."""
    header = ["rows", "plain, ms", "fast adds, ms", "fast", *(f"exact, {trunk.name}" for trunk in TRUNKS)]
    lines = [header, ["---"] * len(header)]
    for load in loads:
        plain, fast = device.ms(base_step(base, load)), device.ms(fast_step(base, load))
        exact = [device.ms(exact_step(base, trunk, load)) for trunk in TRUNKS]
        ratios = [f"{plain / (plain + more):.3f}" for more in (fast, *exact)]
        lines.append([str(load.rows), f"{plain:.2f}", f"{fast:.4f}", *ratios])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def page(loads: Sequence[Load]) -> str:
    """All tables, with what they are."""
    one = loads[0]
    parts = [
        "# On GPUs: computed, not measured\n",
        f"`mavis bench roofline`, from shapes and data sheets: {one.context:,} tokens a row, {one.candidates} "
        f"candidates, {one.objectives} objectives, bfloat16, heads in float32. A step takes as long as its bytes from "
        "memory or its arithmetic, whichever is more. The columns of ratios are guided tokens a second over plain "
        "vLLM's. Left out on both sides: launches of kernels (fast scoring queues some two dozen small ones a step "
        "while the GPU is busy with the base), sampling, and what the host does. So these are bounds: a real server's "
        "ratios will be below them. A base that needs several GPUs is computed as if it lay in the memory of one.\n",
    ]
    for device in DEVICES:
        parts += [f"## {device.name}: {device.memory:g} TB/s, {device.arithmetic:g} TFLOP/s\n"]
        for base in BASES:
            parts += [f"### {base.name}\n", table(device, base, loads) + "\n"]
    return "\n".join(parts)


def bench_roofline(
    rows: Annotated[list[int] | None, typer.Option(min=1, help="Sequences in a step; again for more.")] = None,
    context: Annotated[int, typer.Option(min=1, help="Tokens of each.")] = 1000,
    candidates: Annotated[int, typer.Option(min=1)] = 40,
    objectives: Annotated[int, typer.Option(min=1)] = 5,
    out: Annotated[Path | None, typer.Option(help="Markdown file to write.")] = None,
) -> None:
    """Compute what guided steps would take on GPUs at the least."""
    loads = [Load(number, context, candidates, objectives) for number in rows or (1, 8, 32, 128, 256)]
    text = page(loads)
    if out is None:
        console.print(text, soft_wrap=True, markup=False)
    else:
        out.write_text(text, encoding="utf-8")
        console.print(f"written to {out}", soft_wrap=True)
