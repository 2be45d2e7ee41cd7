"""Rollout trees: replies that share their beginnings, sampled layer by layer (MAVIS, arXiv 2508.13415).

A prompt is the root. In every layer each path that goes on gets children, a segment of random length each; the last
layer's run to their end. A path that ends by itself before that is a leaf. What several paths have in common is the
prompt of their segments, so vLLM, and a guide that reads, compute it once. Flat rollouts are the tree of one layer.

Runs in any process that samples. Must not import torch or vllm.
"""

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from training.prompts.chat import ChatPrompt
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request, request_seed
from valuemodels.contract.guidance import Guidance


class Sampler(Protocol):
    """What trees are sampled by: a `RolloutEngine`."""

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]: ...

    def text_of(self, token_ids: Sequence[int]) -> str: ...


@dataclass(frozen=True, slots=True)
class _Path:
    """From the root to a node.

    Attributes:
        finish_reason: None while it goes on; text: of a path that is a single reply.
    """

    prompt: ChatPrompt
    token_ids: tuple[int, ...] = ()
    log_ratios: tuple[float, ...] = ()
    kl_nats: float = 0.0
    nodes: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()
    finish_reason: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the requests of all trees have in common; `layers` and `guidance` by the prompt's id."""

    layers: Mapping[str, Sequence[int]]
    guidance: Mapping[str, Guidance]
    limits: Limits
    seed: int
    seeds: str

    def request(self, parent: _Path, nodes: "Counter[str]") -> tuple[Request, int]:
        """What samples a child, and its number in the prompt's tree."""
        name = parent.prompt.prompt_id
        nodes[name] += 1
        node = nodes[name]
        own_seed = request_seed(self.seed, self.seeds + name, node - 1)
        left = self.limits.max_tokens - len(parent.token_ids)
        layers_left = len(self.layers[name]) - len(parent.nodes)
        guidance = self.guidance.get(name)
        request = Request(
            prompt_id=name,
            prompt_token_ids=(*parent.prompt.token_ids, *parent.token_ids),
            sample=node - 1,
            seed=own_seed,
            guidance=guidance and replace(guidance, generation_id=f"{guidance.generation_id}-{name}-{node - 1}"),
            max_tokens=segment_tokens(random.Random(own_seed), left, layers_left),
        )
        return request, node


def sample_trees(
    engine: Sampler,
    prompts: Sequence[ChatPrompt],
    children: Callable[[ChatPrompt], Sequence[int]],
    limits: Limits,
    seed: int,
    guidance: Callable[[ChatPrompt], Guidance] | None = None,
    *,
    seeds: str = "",
) -> list[Reply]:
    """The leaves of every prompt's tree, prompt by prompt, as whole replies.

    Whatever is random follows from `seed`, the prompt and the node alone.

    Args:
        children: of a prompt, how many children each path gets in each layer, the root's first.
        limits: of a whole reply.
        guidance: of a prompt's whole tree; its `generation_id` is replaced.
        seeds: names a series of seeds of its own.
    """
    layers = {prompt.prompt_id: list(children(prompt)) for prompt in prompts}
    guided = {prompt.prompt_id: guidance(prompt) for prompt in prompts} if guidance else {}
    plan = _Plan(layers, guided, limits, seed, seeds)
    going = [_Path(prompt) for prompt in prompts]
    leaves: list[_Path] = []
    nodes: Counter[str] = Counter()
    for layer in range(max(map(len, layers.values()), default=0)):
        parents = [path for path in going for _ in range(layers[path.prompt.prompt_id][layer])]
        asked = [plan.request(parent, nodes) for parent in parents]
        replies = engine.sample([request for request, _ in asked], limits)
        going = []
        for parent, (request, node), reply in zip(parents, asked, replies, strict=True):
            path = _extended(parent, node, reply, limits)
            remaining = len(layers[path.prompt.prompt_id]) - layer - 1
            if layer == 0 and remaining:
                path = _reopened(path, request.seed)
            (leaves if path.finish_reason or not remaining else going).append(path)
    order = {prompt.prompt_id: place for place, prompt in enumerate(prompts)}
    leaves.sort(key=lambda leaf: (order[leaf.prompt.prompt_id], leaf.nodes))
    return _replies(engine, leaves)


def segment_tokens(dice: random.Random, left: int, layers_left: int) -> int:
    """The length of a segment: uniform on 1 .. 2 left / layers_left - 1, and what is left in the last layer.

    Args:
        left: tokens that the reply may still have; layers_left: with the segment's own.
    """
    return left if layers_left == 1 else dice.randint(1, max(1, 2 * left // layers_left - 1))


def sampled_tokens(leaves: Sequence[Reply]) -> int:
    """How many tokens trees took to sample: what several leaves share, once."""
    segments = {
        (leaf.prompt_id, node): end - start
        for leaf in leaves
        for node, start, end in zip(leaf.nodes, (0, *leaf.ends[:-1]), leaf.ends, strict=True)
    }
    return sum(segments.values())


def _extended(parent: _Path, node: int, reply: Reply, limits: Limits) -> _Path:
    token_ids = parent.token_ids + reply.token_ids
    is_full = len(token_ids) >= limits.max_tokens
    return replace(
        parent,
        token_ids=token_ids,
        log_ratios=parent.log_ratios + (reply.log_ratios or (0.0,) * len(reply.token_ids)),
        kl_nats=parent.kl_nats + reply.kl_nats,
        nodes=(*parent.nodes, node),
        ends=(*parent.ends, len(token_ids)),
        finish_reason="stop" if reply.finish_reason == "stop" else "length" if is_full else None,
        text=None if parent.nodes else reply.text,
    )


def _reopened(path: _Path, seed: int) -> _Path:
    """A child of the root that ended by itself, cut somewhere, so that its tree is no stump.

    Its KL is then no longer known token by token, and kept as the share of what is left of it.
    """
    tokens = len(path.token_ids)
    if path.finish_reason != "stop" or tokens < 2:
        return path
    kept = random.Random(f"cut {seed}").randint(1, tokens - 1)
    return replace(
        path,
        token_ids=path.token_ids[:kept],
        log_ratios=path.log_ratios[:kept],
        kl_nats=path.kl_nats * kept / tokens,
        ends=(kept,),
        finish_reason=None,
        text=None,
    )


def _replies(engine: Sampler, leaves: Sequence[_Path]) -> list[Reply]:
    samples: Counter[str] = Counter()
    replies = []
    for leaf in leaves:
        name = leaf.prompt.prompt_id
        reply = Reply(
            prompt_id=name,
            prompt_token_ids=leaf.prompt.token_ids,
            sample=samples[name],
            token_ids=leaf.token_ids,
            text=engine.text_of(leaf.token_ids) if leaf.text is None else leaf.text,
            finish_reason=leaf.finish_reason or "length",
            kl_nats=leaf.kl_nats,
            log_ratios=leaf.log_ratios,
            nodes=leaf.nodes,
            ends=leaf.ends,
        )
        samples[name] += 1
        replies.append(reply)
    return replies
