"""`mavis bench tools`: what load generators of others find of a server, without weights and with, and of vLLM's own.

    mavis bench tools [--values DIR] [--guidellm COMMAND] [--requests 48] [--rate R] [--out tools.json]

Every tool puts the same Poisson load on every side in turns, round by round, in another order each time. Weights that
differ from request to request are what no such tool can ask for: `mavis bench http` does. Runs in the command's
process; must not import torch or vllm.
"""

import json
import random
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import Annotated

import typer
from rich.table import Table

from training.bench.http import RATE_SHARE
from training.bench.load import Arrival, at_once, run_load
from training.bench.prompts import PromptsOption, drawn
from training.bench.servers import BenchServer, our_command, plain_command, serving, undisturbed
from training.bench.sides import NO_WEIGHTS, PLAIN, Side, request_fields, sides_of
from training.bench.tools import GuideLlm, Reading, Tool, ToolLoad, VllmBench
from training.evaluate.checkpoint import BaseFolderOption, OutOption, ValuesOption, find_checkpoint, write_report
from training.prompts.chat import ChatPrompt
from training.runs.command import errors_in_one_sentence
from training.runs.progress import Advance, console, progress
from training.statistics.bootstrap import Estimate, ratio_estimate

TIMED_AT_ONCE = 8
"""Streams by which is found what plain vLLM answers a second; the load asks for `RATE_SHARE` of it."""
Servers = Mapping[str, BenchServer]


@dataclass(frozen=True, slots=True)
class ToolFigures:
    """What a tool found of a side: the medians of its rounds' percentiles, in ms; rates are means.

    Attributes:
        first_ratio, gap_ratio: the median first token's and gap's, over those of plain vLLM, round by round.
    """

    tool: str
    side: str
    first: Mapping[str, float]
    gap: Mapping[str, float]
    tokens_per_s: float
    good_per_s: float
    first_ratio: Estimate
    gap_ratio: Estimate


def bench_tools(
    values: ValuesOption = None,
    out: OutOption = None,
    guidellm: Annotated[str | None, typer.Option(help="GuideLLM's command, to have it measure, too.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Of every tool and side.")] = 3,
    requests: Annotated[int, typer.Option(min=2, help="Of a round.")] = 48,
    rate: Annotated[float | None, typer.Option(min=0.001, help="Requests/s; a quarter of what is served.")] = None,
    max_tokens: Annotated[int, typer.Option(min=2, help="Of every answer.")] = 32,
    first_ms: Annotated[float, typer.Option(min=1, help="A good request's first token comes within.")] = 2000,
    next_ms: Annotated[float, typer.Option(min=1, help="And its others, on average.")] = 200,
    prompts: PromptsOption = None,
    base_folder: BaseFolderOption = None,
) -> None:
    """Have `vllm bench serve`, and GuideLLM if given, measure plain vLLM and this server, guided and not."""
    with errors_in_one_sentence(), tempfile.TemporaryDirectory(prefix="mavis-tools-") as folder:
        checkpoint = find_checkpoint(values, base_folder)
        texts = checkpoint.prompts(prompts, only=None)
        sides = [side for side in sides_of(checkpoint.config.names, checkpoint.config.scorings) if _is_shared(side)]
        tools: list[Tool] = [VllmBench(), *([GuideLlm(guidellm)] if guidellm else [])]
        room = max(requests, TIMED_AT_ONCE), max(len(text.token_ids) for text in texts) + 2 * max_tokens
        path = Path(folder) / "prompts.jsonl"
        path.write_text("".join(json.dumps({"prompt": text.text}) + "\n" for text in drawn(texts, requests, 0)))
        plain, ours = plain_command(checkpoint.base), our_command(checkpoint.base, checkpoint.folder)
        with (
            serving(plain, *room) as vllm,
            serving(ours, *room) as mavis,
            progress("bench", rounds * len(sides) * len(tools)) as advance,
        ):
            servers = {PLAIN: vllm, NO_WEIGHTS: mavis}
            per_s = _rate(servers, texts, max_tokens) if rate is None else rate
            load = ToolLoad(path, checkpoint.base, requests, per_s, max_tokens, first_ms, next_ms, seed=0)
            read = _readings(servers, sides, tools, load, rounds, Path(folder), advance)
        found = [_figures(tool.name, side.name, read) for tool in tools for side in sides]
        _print(found, load)
        about = {"rounds": rounds, "requests": requests, "rate": per_s, "max_tokens": max_tokens}
        good = {"first_ms": first_ms, "next_ms": next_ms}
        write_report(out, {**about, **good, "figures": [asdict(each) for each in found]})


def _is_shared(side: Side) -> bool:
    """Whether all requests of a side ask for the same, and for all candidates."""
    return not side.own_weights and (side.guidance is None or side.guidance.candidate_min_p is None)


@contextmanager
def _alone(servers: Servers, side: Side) -> Iterator[BenchServer]:
    server = servers[PLAIN if side.is_plain else NO_WEIGHTS]
    with undisturbed(server, [other for other in servers.values() if other is not server]):
        yield server


def _rate(servers: Servers, prompts: Sequence[ChatPrompt], max_tokens: int) -> float:
    """Requests a second that every side keeps up with."""
    with _alone(servers, Side(PLAIN, "")) as server:
        speeds = []
        for seed in (1, 2):  # the first warms up
            texts = drawn(prompts, TIMED_AT_ONCE, seed)
            arrivals = [
                Arrival(at_s, {"model": server.model, "prompt": list(text.token_ids)})
                for at_s, text in zip(at_once(TIMED_AT_ONCE), texts, strict=True)
            ]
            speeds.append(run_load(server.url, arrivals, max_tokens).tokens_per_s)
    return RATE_SHARE * speeds[-1] / max_tokens


def _readings(
    servers: Servers,
    sides: Sequence[Side],
    tools: Sequence[Tool],
    load: ToolLoad,
    rounds: int,
    folder: Path,
    advance: Advance,
) -> dict[tuple[str, str], list[Reading]]:
    """(tool, side) -> the rounds' readings."""
    found: dict[tuple[str, str], list[Reading]] = defaultdict(list)
    turns = [(tool, side) for tool in tools for side in sides]
    for number in range(rounds):
        for tool, side in random.Random(number).sample(turns, len(turns)):
            with _alone(servers, side) as server:
                fields = request_fields(side.guidance)
                found[tool.name, side.name].append(tool.load(server, fields, replace(load, seed=number), folder))
            advance(1, f"{tool.name}: {side.name}")
    return found


def _figures(tool: str, side: str, read: Mapping[tuple[str, str], Sequence[Reading]]) -> ToolFigures:
    own, plain = read[tool, side], read[tool, PLAIN]
    return ToolFigures(
        tool=tool,
        side=side,
        first={share: median(each.first[share] for each in own) for share in own[0].first},
        gap={share: median(each.gap[share] for each in own) for share in own[0].gap},
        tokens_per_s=fmean(each.tokens_per_s for each in own),
        good_per_s=fmean(each.good_per_s for each in own),
        first_ratio=ratio_estimate([each.first["p50"] for each in own], [each.first["p50"] for each in plain]),
        gap_ratio=ratio_estimate([each.gap["p50"] for each in own], [each.gap["p50"] for each in plain]),
    )


def _print(found: Sequence[ToolFigures], load: ToolLoad) -> None:
    for tool in dict.fromkeys(each.tool for each in found):
        title = f"{tool}: {load.requests} requests, {load.rate:.2g} a second"
        table = Table(
            "side", "first, ms", "p95", "to plain", "gap, ms", "p95", "p99", "to plain", "good/s", title=title
        )
        for each in found:
            if each.tool == tool:
                first = (f"{each.first['p50']:.0f}", f"{each.first['p95']:.0f}", str(each.first_ratio))
                gap = (*(f"{each.gap[share]:.0f}" for share in ("p50", "p95", "p99")), str(each.gap_ratio))
                table.add_row(each.side, *first, *gap, f"{each.good_per_s:.2f}")
        console.print(table)
