"""What a stage's result depends on, as JSON content: parts of a recipe, and rewards by their code.

Runs in any training process. Must not import torch or vllm.
"""

from typing import Any

from training.recipe import Recipe
from training.rewards.reward import check_reward, reward_files
from training.runs.run_dir import file_hash, folder_hash


def pick(recipe: Recipe, *keys: str) -> dict[str, Any]:
    """Some of a recipe's settings, as JSON content."""
    return recipe.model_dump(mode="json", include=set(keys))


def reward_inputs(identifier: str) -> dict[str, Any]:
    """What a reward's scores depend on: its id, its code, and the content of all else."""
    files = [folder_hash(path) if path.is_dir() else file_hash(path) for path in reward_files(identifier)]
    inputs = {"reward": identifier, "code": file_hash(check_reward(identifier))}
    return {**inputs, "depends_on": files} if files else inputs
