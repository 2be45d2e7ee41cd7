"""Sampling from experts: one whose weights are mixed, or several whose distributions are, token by token.

Imports torch, never vllm. Runs in the process of a measuring command.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, DynamicCache

from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request
from training.runs.base import end_tokens
from valuemodels.sources.cpu import base_dtype

ROWS = 128
"""Replies that are written at once."""

_ROWS_READ = 8
"""Replies that the base reads at once: memory goes by their logits over the whole vocabulary."""

_MIXED = "mixed"


def rewarded_soup(base: str, experts: Mapping[str, Path], shares: Mapping[str, float]) -> Any:
    """The base with the experts' weight changes, each by its share (Rewarded Soups, Ramé et al., 2023).

    What the weights' mean is to whole models, the changes' weighted sum is to adapters on one base.
    """
    names = [name for name, share in shares.items() if share]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    mixed = PeftModel.from_pretrained(model, str(experts[names[0]]), adapter_name=names[0])
    for name in names[1:]:
        mixed.load_adapter(str(experts[name]), adapter_name=name)
    # "cat" adds the products up; "linear" would add the factors, whose product has cross terms.
    mixed.add_weighted_adapter(names, [shares[name] for name in names], _MIXED, combination_type="cat")
    mixed.set_adapter(_MIXED)
    return _as_served(mixed.merge_and_unload(adapter_names=[_MIXED]), base)


def _as_served(model: Any, base: str) -> Any:
    """In the numbers that the engine computes the base in."""
    own = AutoConfig.from_pretrained(base).dtype if base_dtype() == "auto" else None
    return model.to(own or torch.float32).eval()


class MixedPolicy:
    """pi, proportional to the product of the models' probabilities, each to the power of its share, at every token.

    This is MOD (Shi et al., 2024) for experts that were regularised by the reverse KL; of one model, it is that model.
    Samples as an engine does: equal requests with equal seeds give equal replies, whatever else is sampled with them.
    """

    def __init__(self, base: str, models: Sequence[Any], shares: Sequence[float]) -> None:
        """Args: `base`: folder of the base, which reads the replies; `shares`: of the models, adding up to 1."""
        self._base = _as_served(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), base)
        self._models = list(models)
        self._shares = list(shares)
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._ends = set(end_tokens(base, self._tokenizer))

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        """One reply a request, in the requests' order, with its `log_ratios` and `base_logprob`."""
        # Replies to prompts of like length are written together: what pads the others is read for nothing.
        order = sorted(range(len(requests)), key=lambda place: len(requests[place].prompt_token_ids))
        found: dict[int, Reply] = {}
        for start in range(0, len(order), ROWS):
            places = order[start : start + ROWS]
            found |= zip(places, self._batch([requests[place] for place in places], limits), strict=True)
        return [found[place] for place in range(len(requests))]

    @torch.inference_mode()
    def _batch(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        ids, mask = _left_padded([request.prompt_token_ids for request in requests])
        dice = [torch.Generator().manual_seed(request.seed) for request in requests]
        caches = [DynamicCache() for _ in self._models]
        written: list[list[tuple[int, float]]] = [[] for _ in requests]
        rows = list(range(len(requests)))  # those that have not ended
        while rows:
            logprobs = self._logprobs(ids, mask, caches, limits.temperature)
            drawn = _drawn(logprobs, [dice[row] for row in rows])
            told = logprobs.gather(1, drawn)[:, 0].tolist()
            for row, token, logprob in zip(rows, drawn[:, 0].tolist(), told, strict=True):
                written[row].append((token, logprob))
            ids, mask = drawn, torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
            left = [place for place, row in enumerate(rows) if not self._is_over(requests[row], written[row], limits)]
            if len(left) < len(rows):
                rows, kept = [rows[place] for place in left], torch.tensor(left, dtype=torch.int64)
                ids, mask = ids[kept], mask[kept]
                for cache in caches:
                    cache.batch_select_indices(kept)
        texts = [
            (*request.prompt_token_ids, *(token for token, _ in tokens))
            for request, tokens in zip(requests, written, strict=True)
        ]
        of_base = self._read(texts, [len(tokens) for tokens in written])
        return [self._reply(*each) for each in zip(requests, written, of_base, strict=True)]

    def _is_over(self, request: Request, written: Sequence[tuple[int, float]], limits: Limits) -> bool:
        limit = limits.max_tokens if request.max_tokens is None else min(request.max_tokens, limits.max_tokens)
        return len(written) >= limit or (written[-1][0] in self._ends and not limits.ignore_eos)

    def _logprobs(self, ids: Tensor, mask: Tensor, caches: Sequence[DynamicCache], temperature: float) -> Tensor:
        """[rows, vocabulary] of the mixture at this temperature."""
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        each = [
            model(
                input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, logits_to_keep=1
            ).logits[:, -1].float()
            for model, cache in zip(self._models, caches, strict=True)
        ]  # fmt: skip
        mixed = sum(
            share * (logits / temperature).log_softmax(-1) for share, logits in zip(self._shares, each, strict=True)
        )
        assert isinstance(mixed, Tensor)
        return mixed.log_softmax(-1)

    def _read(self, texts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[float]]:
        """What the base makes of so many last tokens of each text; read at once, not token by token."""
        found = []
        for start in range(0, len(texts), _ROWS_READ):
            ids, mask = _left_padded(texts[start : start + _ROWS_READ])
            positions = (mask.cumsum(1) - 1).clamp(min=0)
            longest = max(lengths[start : start + _ROWS_READ])
            logits = self._base(
                input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=longest + 1
            ).logits[:, :-1].float()  # fmt: skip
            told = logits.gather(2, ids[:, -longest:, None])[..., 0] - logits.logsumexp(-1)
            found += told.tolist()
        return [row[-length:] for row, length in zip(found, lengths, strict=True)]

    def _reply(self, request: Request, written: Sequence[tuple[int, float]], of_base: Sequence[float]) -> Reply:
        tokens = tuple(token for token, _ in written)
        ratios = tuple(own - base for (_, own), base in zip(written, of_base, strict=True))
        return Reply(
            prompt_id=request.prompt_id,
            prompt_token_ids=request.prompt_token_ids,
            sample=request.sample,
            token_ids=tokens,
            text=self._tokenizer.decode(tokens, skip_special_tokens=True),
            finish_reason="stop" if tokens[-1] in self._ends else "length",
            kl_nats=sum(ratios),
            log_ratios=ratios,
            base_logprob=sum(of_base),
        )


def _left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """[rows, tokens] ids and mask; what is masked is never read."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + list(prompt) for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return ids, mask


def _drawn(logprobs: Tensor, dice: Sequence[torch.Generator]) -> Tensor:
    """[rows, 1] a token of each row: where its own uniform number falls among the summed probabilities."""
    sums = logprobs.double().exp().cumsum(-1)
    uniform = torch.stack([torch.rand(1, generator=die, dtype=torch.float64) for die in dice])
    return torch.searchsorted(sums, uniform * sums[:, -1:], right=True).clamp(max=logprobs.shape[1] - 1)
