"""`mavis train check`: whatever can be known of a recipe before it is carried out, in one list. Nothing is fetched.

Runs in the process of the command. torch is imported only once everything else holds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from training.errors import PromptError, RecipeError
from training.prompts.chat import ChatPrompt, chat_prompts
from training.prompts.datasets import load_prompts
from training.prompts.files import read_prompts_file, split
from training.prompts_recipe import DatasetRecipe, find_prompts
from training.recipe import Recipe
from training.rewards.reward import check_reward
from valuemodels.contract.errors import MavisError
from valuemodels.sources.embedded import EMBEDDED, prepare_embedded_base
from valuemodels.sources.hub import local_folder

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        problem: a run would fail of it.
    """

    what: str
    found: str
    problem: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """What was found, and what an estimate needs.

    Attributes:
        prompts: of each split; base, trunk: their folders; None where something is wrong or not here.
    """

    findings: tuple[Finding, ...]
    prompts: dict[str, int] | None
    base: Path | None
    trunk: Path | None

    @property
    def problems(self) -> int:
        return sum(finding.problem for finding in self.findings)


def check_recipe(recipe: Recipe, base_folder: Path | None = None) -> Checked:
    """Look at prompts, rewards and base; a thing that is wrong does not keep the others from being looked at."""
    findings: list[Finding] = []
    base = _noted(findings, "base", lambda: _base(recipe, base_folder))
    trunk = base if recipe.backbone.kind == "base" else _noted(findings, "trunk", lambda: _trunk(recipe))
    prompts = _noted(findings, "prompts", lambda: _prompts(recipe))
    if base is not None and prompts is not None and _is_here(recipe):
        _noted(findings, "longest prompt", lambda: _lengths(recipe, base))
    for objective in recipe.objectives:
        _noted(findings, f"reward of {objective.name}", partial(_reward, objective.reward_id))
    if recipe.judging.prompts is not None and recipe.is_judged:
        _noted(findings, "judge.prompts", lambda: _judged_by(recipe))
    return Checked(tuple(findings), prompts, base, trunk)


def _noted(findings: list[Finding], what: str, look: Callable[[], tuple[T, str]]) -> T | None:
    """The result of a look at something, whose description or error is put down."""
    try:
        result, found = look()
    except MavisError as error:
        findings.append(Finding(what, str(error), problem=True))
        return None
    findings.append(Finding(what, found))
    return result


def _base(recipe: Recipe, base_folder: Path | None) -> tuple[Path | None, str]:
    if base_folder is not None:
        return base_folder, str(base_folder)
    if recipe.base == EMBEDDED:
        return prepare_embedded_base(), EMBEDDED
    return _on_this_machine(recipe.base, recipe.base_revision)


def _trunk(recipe: Recipe) -> tuple[Path | None, str]:
    return _on_this_machine(str(recipe.backbone.model), recipe.backbone.revision)


def _on_this_machine(name: str, revision: str | None) -> tuple[Path | None, str]:
    folder = local_folder(name, revision)
    return folder, f"{name}, not on this machine yet: a run fetches it" if folder is None else str(folder)


def _is_here(recipe: Recipe) -> bool:
    return not isinstance(recipe.prompts, DatasetRecipe) or recipe.prompts_path.is_dir()


def _prompts(recipe: Recipe) -> tuple[dict[str, int] | None, str]:
    if not _is_here(recipe):
        return _prompts_to_fetch(recipe)
    parts = split(load_prompts(recipe), recipe.split)
    counts = {name: len(part[: recipe.limit]) for name, part in parts._asdict().items()}
    if empty := [name for name, count in counts.items() if count == 0]:
        raise PromptError(f"{recipe.prompts_path}: the {empty[0]} split is empty; give more prompts or other shares")
    return counts, ", ".join(f"{count} {name}" for name, count in counts.items())


def _prompts_to_fetch(recipe: Recipe) -> tuple[dict[str, int] | None, str]:
    """Of a dataset on the hub, whose content only a run looks at: how many there are at most."""
    assert isinstance(recipe.prompts, DatasetRecipe)
    found = f"{recipe.prompts.dataset} on the hub, not looked into: a run fetches it"
    if (most := recipe.prompts.at_most) is None:
        return None, found
    shares = recipe.split.model_dump()
    counts = {name: min(round(most * share), recipe.limit or most) for name, share in shares.items()}
    return counts, f"{found}; at most {', '.join(f'{count} {name}' for name, count in counts.items())}"


def _lengths(recipe: Recipe, base: Path) -> tuple[int, str]:
    """The longest prompt must leave room for a reply."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, trust_remote_code=False)
    rendered: list[ChatPrompt] = chat_prompts(tokenizer, load_prompts(recipe), recipe.split, recipe.limit)
    longest = max(rendered, key=lambda prompt: len(prompt.token_ids))
    needed = len(longest.token_ids) + recipe.rollout.max_tokens
    if needed > recipe.engine.max_model_len:
        raise RecipeError(
            f"engine.max_model_len: got {recipe.engine.max_model_len}, allowed is {needed} or more: the prompt that "
            f"begins {longest.text[:40]!r} has {len(longest.token_ids)} tokens, and a reply {recipe.rollout.max_tokens}"
        )
    return needed, f"{len(longest.token_ids)} tokens; with a reply {needed} of {recipe.engine.max_model_len}"


def _reward(identifier: str) -> tuple[Path, str]:
    source = check_reward(identifier)
    return source, f"{identifier}, of {source}"


def _judged_by(recipe: Recipe) -> tuple[int, str]:
    count = len(read_prompts_file(find_prompts(str(recipe.judging.prompts)))[: recipe.judging.limit])
    return count, f"{count} prompts"
