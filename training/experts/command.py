"""`mavis train expert`: a policy fine-tuned for one objective, or for one mix, to compare this project with.

    mavis train expert OBJECTIVE [--values DIR] [--run-dir runs/experts] [--samples 16]
    mavis train expert OBJECTIVE=1,OBJECTIVE=1

    RUN_DIR/replies/          the base's replies, which all experts of the folder learn from
    RUN_DIR/OBJECTIVE/adapter the expert: a LoRA adapter on the base
    RUN_DIR/OBJECTIVE/trainer what an interrupted fit goes on from

Must not import torch or vllm at the top.
"""

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from training.errors import RecipeError
from training.evaluate.checkpoint import (
    BaseFolderOption,
    EvaluatedCheckpoint,
    ValuesOption,
    find_checkpoint,
    sampler_on,
)
from training.evaluate.mix import Mix, parse_mix
from training.experts.preferences import budget, preferences
from training.prompts.chat import SplitName
from training.rewards.reward import checked_scores, load_reward
from training.rollouts.engine import Reply
from training.rollouts.requests import requests_to_sample
from training.rollouts.sampler import Condition, Sampler
from training.rollouts.shards import Rollout
from training.runs.command import errors_in_one_sentence
from training.runs.progress import console, progress
from training.runs.run_dir import Stage
from training.statistics.bootstrap import mean_estimate

REPLIES, ADAPTER, TRAINER = "replies", "adapter", "trainer"
HELD_OUT_SAMPLES = 2


def make_expert(
    objective: Annotated[str, typer.Argument(help="One of the checkpoint's, or a mix of them, as a=1,b=1.")],
    values: ValuesOption = None,
    run_dir: Annotated[Path, typer.Option(help="Of this expert and its like.")] = Path("runs/experts"),
    samples: Annotated[int, typer.Option(min=2, help="Replies of the base to each training prompt.")] = 16,
    pairs: Annotated[int, typer.Option(min=1, help="Preferences of each prompt.")] = 4,
    beta: Annotated[float, typer.Option(min=0.001, help="Of DPO: the larger, the nearer to the base.")] = 0.1,
    rank: Annotated[int, typer.Option(min=1, help="Of LoRA.")] = 32,
    epochs: Annotated[float, typer.Option(min=0.01)] = 1.0,
    learning_rate: Annotated[float, typer.Option(min=0)] = 1e-4,
    batch_size: Annotated[int, typer.Option(min=1, help="Preferences a step.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1)] = 64,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts of each split.")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 7,
    base_folder: BaseFolderOption = None,
) -> None:
    """Fine-tune the base for one objective or mix, and say what that taught it. Goes on where it was."""
    with errors_in_one_sentence():
        checkpoint = find_checkpoint(values, base_folder)
        aim = Aim.of(objective, checkpoint)
        drawn = Drawn(checkpoint, run_dir / REPLIES, samples, max_tokens, limit, seed)
        settings = {"pairs": pairs, "beta": beta, "rank": rank, "epochs": epochs, "learning_rate": learning_rate}
        recipe = {**settings, "batch_size": batch_size, "seed": seed}
        stage = Stage(run_dir / aim.folder_name, {**recipe, **drawn.inputs(), "reward": aim.inputs()})
        stage.start()
        if not stage.is_done:
            stage.finish(drawn.learned(aim, recipe, stage.folder))
        _print(str(aim), stage.summary(), stage.folder)


@dataclass(frozen=True, slots=True)
class Aim:
    """What an expert is fitted to.

    Attributes:
        mix: of the objectives; one alone as a rule.
        rewards: objective -> id of its reward; stds: of the base's reward.
    """

    mix: Mix
    rewards: Mapping[str, str]
    stds: Mapping[str, float]

    @classmethod
    def of(cls, text: str, checkpoint: EvaluatedCheckpoint) -> "Aim":
        """An objective's name, or a mix.

        Raises:
            RecipeError: it is neither.
        """
        names = tuple(checkpoint.rewards)
        if "=" not in text and text not in names:
            raise RecipeError(f"objective: got {text!r}, allowed is one of {', '.join(names)}, or a mix, as a=1,b=1")
        mix = parse_mix("objective", text, names) if "=" in text else Mix({text: 1.0})
        stds = {objective.name: objective.std for objective in checkpoint.config.objectives}
        return cls(mix, {name: checkpoint.rewards[name] for name in mix.shares}, stds)

    def __str__(self) -> str:
        return str(self.mix) if len(self.rewards) > 1 else next(iter(self.rewards))

    @property
    def folder_name(self) -> str:
        return self.mix.folder_name if len(self.rewards) > 1 else str(self)

    def inputs(self) -> Any:
        """What it is, as JSON content."""
        if len(self.rewards) == 1:
            return self.rewards[str(self)]
        return {name: {"share": self.mix.shares[name], "reward": reward} for name, reward in self.rewards.items()}

    def scores(self, prompts: Sequence[str], replies: Sequence[str]) -> NDArray[np.float64]:
        """Of each reply: the mix of its rewards, each in standard deviations of the base's."""
        found = np.zeros(len(replies))
        for name, identifier in self.rewards.items():
            own = checked_scores(name, load_reward(identifier), prompts, replies)
            found += self.mix.shares[name] * np.asarray(own) / self.stds[name]
        return found


class Drawn:
    """The base's replies to a checkpoint's training and validation prompts, sampled once for all experts."""

    def __init__(
        self, checkpoint: EvaluatedCheckpoint, folder: Path, samples: int, max_tokens: int, limit: int | None, seed: int
    ) -> None:
        self._checkpoint = checkpoint
        self._folder = folder
        self._samples = samples
        self._max_tokens = max_tokens
        self._limit = limit
        self._seed = seed

    def inputs(self) -> dict[str, Any]:
        """What they depend on."""
        sizes = {"samples": self._samples, "max_tokens": self._max_tokens, "limit": self._limit, "seed": self._seed}
        return {**self._checkpoint.inputs(), **sizes}

    def learned(self, aim: Aim, recipe: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Fit an expert, and set its replies to prompts it has not seen against the base's."""
        from training.experts.expert import ExpertRecipe, train_expert

        train, held_out = in_own_process(self.replies, "train"), in_own_process(self.replies, "validation")
        rows = preferences(train, self._scores(aim, train), recipe["pairs"])
        if not rows:
            raise RecipeError(f"objective: got {str(aim)!r}, whose reward tells no two replies to one prompt apart")
        fitted = train_expert(self._checkpoint.base, rows, ExpertRecipe(**recipe), folder / TRAINER, folder / ADAPTER)
        return {"preferences": len(rows), **budget(train), **fitted, **self._taught(aim, folder, held_out)}

    def replies(self, split: SplitName) -> list[Rollout]:
        """The base's, sampled where they are missing, by an engine in this process."""
        samples = self._samples if split == "train" else HELD_OUT_SAMPLES
        sampler = self._sampler(split)
        with progress(f"base, {split}", len(sampler.prompts) * samples) as advance:
            return sampler.replies(Condition("base", None, samples), advance)

    def _sampler(self, split: SplitName) -> Sampler:
        prompts = self._checkpoint.prompts(None, self._limit, only=split)
        return sampler_on(self._checkpoint, self._folder / split, prompts, self._max_tokens, self._seed)

    def _scores(self, aim: Aim, replies: Sequence[Rollout | Reply]) -> list[float]:
        texts = {prompt.prompt_id: prompt.text for prompt in self._checkpoint.prompts(None, None, only=None)}
        asked = [texts[reply.prompt_id] for reply in replies]
        scores: list[float] = aim.scores(asked, [reply.text for reply in replies]).tolist()
        return scores

    def _taught(self, aim: Aim, folder: Path, of_base: Sequence[Rollout]) -> dict[str, Any]:
        from training.experts.policy import MixedPolicy, rewarded_soup

        base, sampler = self._checkpoint.base, self._sampler("validation")
        expert = rewarded_soup(base, {"expert": folder / ADAPTER}, {"expert": 1.0})
        requests = requests_to_sample(sampler.prompts, HELD_OUT_SAMPLES, self._seed)
        own = MixedPolicy(base, [expert], [1.0]).sample(requests, sampler.limits)
        gains = np.subtract(self._scores(aim, own), self._scores(aim, of_base))
        shape = (len(sampler.prompts), HELD_OUT_SAMPLES)
        kl_nats = np.reshape([reply.kl_nats for reply in own], shape)
        return {
            "shift": asdict(mean_estimate(gains.reshape(shape))),
            "kl_nats": asdict(mean_estimate(kl_nats)),
        }


def in_own_process(work: Callable[[SplitName], list[Rollout]], split: SplitName) -> list[Rollout]:
    """What some work gives, done in a process that ends with it: vLLM binds its process's threads to single cores."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, split).result()


def _print(objective: str, figures: Mapping[str, Any], folder: Path) -> None:
    shift, kl_nats = ("{value:.2f} [{low:.2f}, {high:.2f}]".format(**figures[name]) for name in ("shift", "kl_nats"))
    console.print(
        f"{objective}: {shift} standard deviations above the base on prompts it has not seen, at {kl_nats} nats a "
        f"reply; from {figures['preferences']} preferences between {figures['replies']} replies",
        soft_wrap=True,
    )
    console.print(f"the expert is in {folder / ADAPTER}", soft_wrap=True)
