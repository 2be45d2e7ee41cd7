"""The stage that makes a run's prompts: read, split, rendered.

Runs in its own process, started by `training.rounds`. Must not import torch.
"""

from collections import Counter
from typing import Any

from training.prompts.chat import chat_prompts, write_prompt_set
from training.prompts.datasets import load_prompts
from training.runs.run import Run

PROMPTS_FILE = "prompts.jsonl"


def prepare_prompts(run: Run) -> dict[str, Any]:
    """Read, split and render the recipe's prompts."""
    from transformers import AutoTokenizer

    recipe = run.recipe
    tokenizer = AutoTokenizer.from_pretrained(run.base_folder, trust_remote_code=False)

    prompts = chat_prompts(tokenizer, load_prompts(recipe), recipe.split, recipe.limit)
    write_prompt_set(run.stage("prompts").folder / PROMPTS_FILE, prompts)
    return {"prompts": dict(Counter(prompt.split for prompt in prompts))}
