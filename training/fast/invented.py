"""The stage that asks the base for more prompts to train on: the user's turn of a chat, written by the base itself.

A probe needs many different states more than it needs good prompts, and this needs no data (the idea of Magpie, arXiv
2406.08464). Runs in its own process, started by `training.rounds`, with the engine in it. Must not import torch.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from training.fast.run import FastRun
from training.prompts.chat import ChatPrompt, read_prompt_set, render_chat, write_prompt_set
from training.prompts.files import Prompt
from training.prompts.stage import PROMPTS_FILE
from training.rollouts.engine import Limits, Reply, RolloutEngine
from training.rollouts.requests import requests_to_sample
from training.runs.progress import progress

_MARK = "\u2063"
_MAX_TOKENS = 48
_MIN_WORDS, _MAX_WORDS = 3, 60
_BATCH = 512
_MAX_TRIES = 8
"""Replies drawn at most, as a multiple of what is needed: a base that invents nothing usable ends the stage."""


def invent_prompts(run: FastRun) -> dict[str, Any]:
    """Write the recipe's number of new prompts, `limit` at most, or as many as the base has in it."""
    wanted = run.recipe.invented_prompts
    found: list[ChatPrompt] = []
    drawn = 0
    if wanted:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(run.base_folder, trust_remote_code=False)
        known = {prompt.text for prompt in read_prompt_set(run.finished("prompts") / PROMPTS_FILE)}
        engine = RolloutEngine(run.base_folder, run.recipe.engine)
        with progress("invented", wanted) as advance:
            while len(found) < wanted and drawn < _MAX_TRIES * wanted + _BATCH:
                replies = _draw(engine, run, tokenizer, drawn)
                drawn += len(replies)
                new = list(usable_texts((reply for reply in replies if reply.finish_reason == "stop"), known))
                new = new[: wanted - len(found)]
                found += [ChatPrompt(Prompt.of(text).id, "train", text, render_chat(tokenizer, text)) for text in new]
                advance(len(new))
    write_prompt_set(run.stage("invented").folder / PROMPTS_FILE, found)
    return {"prompts": len(found), "drawn": drawn}


def user_turn(tokenizer: Any) -> tuple[int, ...]:
    """Tokens of a chat up to where the user's message begins."""
    rendered = tokenizer.apply_chat_template([{"role": "user", "content": _MARK}], tokenize=False)
    return tuple(tokenizer(rendered.partition(_MARK)[0], add_special_tokens=False)["input_ids"])


def usable_texts(replies: Iterable[Reply], known: set[str]) -> Iterator[str]:
    """First lines of the replies that make a prompt of some words, each once; they are added to `known`."""
    for reply in replies:
        text = reply.text.strip().partition("\n")[0].strip()
        is_new = text not in known and "\ufffd" not in text
        if is_new and _MIN_WORDS <= len(text.split()) <= _MAX_WORDS:
            known.add(text)
            yield text


def _draw(engine: RolloutEngine, run: FastRun, tokenizer: Any, drawn: int) -> Sequence[Reply]:
    turn = ChatPrompt(f"invented-{drawn}", "train", "", user_turn(tokenizer))
    requests = requests_to_sample([turn], _BATCH, run.recipe.seed)
    return engine.sample(requests, Limits(_MAX_TOKENS, run.recipe.rollout.temperature))
