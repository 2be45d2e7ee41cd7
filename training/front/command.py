"""`mavis evaluate front`: which rewards can be had together, by tilting and by the alternatives, on the same base.

    mavis evaluate front [--values DIR] [--out DIR] [--pair a,b] [--triple a,b,c] [--full] [--run-dir runs/front]

Every method answers the same prompts at the same mixes, with as many samples and tokens, and is measured alike; pairs
that are not looked at closely are left to the base, its best of n, and the tilts. Writes report.json, report.md and
pareto.png. What an earlier run has sampled is not sampled again.

Runs in the process of the command, with the engine in it. Must not import torch or vllm.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from training.errors import RecipeError
from training.evaluate.checkpoint import (
    BaseFolderOption,
    EvaluatedCheckpoint,
    PromptsOption,
    ValuesOption,
    engine_on,
    find_checkpoint,
    sampler_on,
    write_report,
)
from training.evaluate.optimum import optimum
from training.evaluate.sliders import app
from training.front.asked import (
    ExpertsOption,
    MixOption,
    PairOption,
    PointsOption,
    TripleOption,
    asked_groups,
    looked_at_closely,
    tilt_kinds,
    whole_numbers,
)
from training.front.figures import Answers, group_figures
from training.front.methods import Base, BestOf, Method, Setting, Tilted, TiltKind, every_method
from training.front.mixes import PAIR_POINTS, MixGroup
from training.front.policies import Experts, expert_of_the_mix, mixed_experts
from training.front.prompted import Prompted
from training.front.report import PLOT, TABLES, plot, tables, verdicts
from training.prompts.chat import ChatPrompt, render_chat
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console, progress
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.policy import DEFAULT_CANDIDATES, DEFAULT_MAX_CANDIDATES

__all__ = ["app"]

app.command("optimum")(optimum)

REPORT = "report.json"
_INSTRUCTIONS = Path(__file__).with_name("instructions.yaml")


@app.command("front")
def front(
    values: ValuesOption = None,
    out: Annotated[Path, typer.Option(help="Folder of report.json, report.md and pareto.png.")] = Path("front"),
    pair: PairOption = None,
    triple: TripleOption = None,
    mix: MixOption = None,
    points: PointsOption = PAIR_POINTS,
    others: Annotated[bool, typer.Option(help="Whether other pairs are looked at too, less closely.")] = True,
    full: Annotated[bool, typer.Option(help="Look at every pair closely.")] = False,
    prompts: PromptsOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Use the first N prompts.")] = 100,
    samples: Annotated[int, typer.Option(min=1, help="Replies a prompt, at every mix.")] = 3,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    best_of: Annotated[str, typer.Option(help="The base's best of so many replies; none if empty.")] = "4,16",
    tilts: Annotated[str, typer.Option(help="Lengths of the weights, each with @candidates if wanted.")] = "1",
    instructions: Annotated[
        Path | None, typer.Option(help="YAML: objective -> the sentence that asks for it; what ships if not given.")
    ] = None,
    experts: ExpertsOption = None,
    scoring: Annotated[Scoring | None, typer.Option(help="The checkpoint's default if not given.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 3,
    run_dir: Annotated[Path, typer.Option(help="Where the replies are kept.")] = Path("runs/front"),
    base_folder: BaseFolderOption = None,
) -> None:
    """Sample all methods at all mixes, score the replies, and write the report."""
    with errors_in_one_sentence():
        kinds = tilt_kinds(tilts)
        checkpoint = _scoring_up_to(find_checkpoint(values, base_folder), kinds)
        groups = asked_groups(checkpoint.config.names, pair, triple, mix, points=points, others=others, full=full)
        close = looked_at_closely(groups, experts=experts, instructions=instructions)
        setting = _setting(checkpoint, run_dir, checkpoint.prompts(prompts, limit), samples, max_tokens, seed)
        counts = whole_numbers("best_of", best_of, 2)
        prompted = _prompted(setting, checkpoint, _instructions(instructions, checkpoint.config.names))
        base = Base(setting, max(counts, default=1))
        methods = every_method(base, checkpoint.scoring(scoring), kinds, counts, prompted)
        ideal, about = None, _about(checkpoint, setting)
        if experts is not None:
            found = Experts.of(experts, checkpoint.base, close)
            methods, ideal = [*methods, *mixed_experts(setting, found)], expert_of_the_mix(setting, found)
            about["experts"] = found.learned()
        write(out, {**about, **answer(groups, base, methods, ideal)})


def answer(
    groups: Sequence[MixGroup], base: Base, methods: Sequence[Method], ideal: Method | None = None
) -> dict[str, Any]:
    """Have the methods answer at every mix of every group, and measure it: the `groups` of a report, and `seconds`.

    Args:
        base: whose replies rewards are told as distances from.
        methods: itself first; those that draw replies of their own, tilts aside, answer at what is looked at closely.
        ideal: answers at groups of one mix alone.

    Raises:
        RunDirError: the sampler's folder holds replies made with other settings.
        RewardError: an objective's reward cannot be had here.
    """
    setting = base.setting
    replies = len(setting.sampler.prompts) * setting.samples
    plan = [(group, _methods_at(group, methods, ideal)) for group in groups]
    total = sum(len(group.mixes) * len(some) for group, some in plan) * replies
    started, found = time.monotonic(), []
    with progress("front", total) as advance:
        for group, some in plan:
            answers = []
            for method in some:
                by_mix = []
                for mix in group.mixes:
                    by_mix.append(method.at(mix))
                    advance(replies, f"{group}: {method.name}")
                passes = max(map(method.passes, group.mixes))
                answers.append(Answers(method.name, passes, by_mix, isinstance(method, Tilted)))
            found.append(asdict(group_figures(group, answers, base.drawn, setting.stds)))
    return {"seconds": round(time.monotonic() - started), "groups": found}


def _methods_at(group: MixGroup, methods: Sequence[Method], ideal: Method | None) -> list[Method]:
    if not group.closely:
        return [method for method in methods if isinstance(method, Base | Tilted | BestOf)]
    return [*methods, *([ideal] if ideal and group.is_one_mix else [])]


def write(out: Path, report: Mapping[str, Any]) -> None:
    """Write report.json, report.md and pareto.png, and print who is ahead."""
    write_report(out / REPORT, report)
    (out / TABLES).write_text(tables(report), encoding="utf-8")
    plot(report, out / PLOT)
    for group in report["groups"]:
        console.print(f"\n[bold]{', '.join(group['objectives'])}[/bold]")
        for sentence in verdicts(group):
            console.print(f"  {sentence}", soft_wrap=True)


def _about(checkpoint: EvaluatedCheckpoint, setting: Setting) -> dict[str, Any]:
    return {
        "checkpoint": checkpoint.config.id,
        "prompts": len(setting.sampler.prompts),
        "samples": setting.samples,
        "max_tokens": setting.sampler.limits.max_tokens,
        "seed": setting.sampler.seed,
    }


def _setting(
    checkpoint: EvaluatedCheckpoint,
    folder: Path,
    prompts: Sequence[ChatPrompt],
    samples: int,
    max_tokens: int,
    seed: int,
) -> Setting:
    engine = engine_on(checkpoint)
    sampler = sampler_on(checkpoint, folder, prompts, max_tokens, seed, engine)
    stated = {objective.name: objective for objective in checkpoint.config.objectives}
    return Setting(
        sampler=replace(sampler, limits=replace(sampler.limits, read_top=DEFAULT_CANDIDATES)),
        engine=engine,
        rewards=checkpoint.rewards,
        means={name: objective.mean for name, objective in stated.items()},
        stds={name: objective.std for name, objective in stated.items()},
        samples=samples,
    )


def _scoring_up_to(checkpoint: EvaluatedCheckpoint, kinds: Sequence[TiltKind]) -> EvaluatedCheckpoint:
    """The checkpoint, served so that a request may ask for as many candidates as these do."""
    most = max(DEFAULT_MAX_CANDIDATES, *(kind.candidates or 1 for kind in kinds))
    return replace(checkpoint, guide=replace(checkpoint.guide, max_candidates=most))


def _instructions(path: Path | None, names: Sequence[str]) -> dict[str, str]:
    """Objective -> sentence; nothing where the file that ships does not know all of them."""
    try:
        given = yaml.safe_load((path or _INSTRUCTIONS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"instructions: {path} cannot be read: {error}") from None
    if not isinstance(given, dict) or not all(isinstance(text, str) for text in given.values()):
        raise RecipeError(f"instructions: {path} holds no mapping from objectives to sentences")
    missing = [name for name in names if name not in given]
    if missing and path is not None:
        raise RecipeError(f"instructions: {path} has no sentence for {', '.join(missing)}")
    return {} if missing else given


def _prompted(setting: Setting, checkpoint: EvaluatedCheckpoint, instructions: Mapping[str, str]) -> Prompted | None:
    if not instructions:
        console.print("no instructions for these objectives, so the base is not asked for them", soft_wrap=True)
        return None
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.base, trust_remote_code=False)
    return Prompted(setting, instructions, lambda text: render_chat(tokenizer, text))
