"""Exact scoring's step against its limit: the time of its matrix products alone, in the same process.

The trunk is as it is served: in the same arithmetic, with the same products. Runs in a process of its own, one figure
after another. Imports torch, and of vLLM those products.
"""

import random
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor, nn

from training.bench.shapes import StepShape, StepTiming
from valuemodels.adapters.trunk_layers import PackedLinear, use_vllm_layers
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.loading import load_guide
from valuemodels.models.trunk import ValueHead, ValueModel
from valuemodels.scoring.exact import ExactScorer, Query
from valuemodels.scoring.own_check import kv_shape_of
from valuemodels.sources.cpu import has_fast_bfloat16

_WARM_UP = 2
_LOWEST_TOKEN, _HIGHEST_TOKEN = 1000, 30000


class StepBench:
    """One trunk to time."""

    def __init__(self, guide: GuideConfig) -> None:
        served_in = torch.bfloat16 if has_fast_bfloat16() else torch.float32
        loaded = load_guide(guide, torch.device("cpu"), served_in, prepare_trunk=use_vllm_layers)
        scorer = loaded.scorers["exact"][0]
        assert isinstance(scorer, ExactScorer), "exact scorings are ExactScorers"
        self._scorer = scorer
        self._objective = scorer.objectives[0]

    def time(self, shape: StepShape, repeats: int) -> StepTiming:
        """Time a step and its limit in turns."""
        scorer, model = self._scorer, self._scorer.model
        model.head = ValueHead(model.backbone.config.hidden_size, shape.objectives, model.config.trunk[1]).eval()
        scorer.objectives = (self._objective,) * shape.objectives
        rng = random.Random(0)
        names = [f"{shape}-{row}" for row in range(shape.rows)]
        texts = [_tokens(rng, shape.context) for _ in names]
        candidates = torch.tensor(_tokens(rng, shape.candidates))
        step, limit = [], []
        products = _products(model, shape)
        for _ in range(_WARM_UP + repeats):
            queries = [Query(name, list(text), candidates=candidates) for name, text in zip(names, texts, strict=True)]
            step.append(_ms(partial(scorer.score_queries, queries)))
            limit.append(_ms(products))
            for text in texts:
                text.append(rng.randrange(_LOWEST_TOKEN, _HIGHEST_TOKEN))
        for name in names:
            scorer.cache.forget(name)
        return StepTiming(shape, median(step[_WARM_UP:]), median(limit[_WARM_UP:]))


def _tokens(rng: random.Random, count: int) -> list[int]:
    return [rng.randrange(_LOWEST_TOKEN, _HIGHEST_TOKEN) for _ in range(count)]


def _products(model: ValueModel, shape: StepShape) -> Callable[[], object]:
    """Of all linear layers with a step's tokens (each row's newest one and its candidates), and those of attention."""
    layers = [module for module in model.backbone.modules() if isinstance(module, (nn.Linear, PackedLinear))]
    tokens = shape.rows * (1 + shape.candidates)
    kv = kv_shape_of(model)
    random_numbers = partial(torch.randn, dtype=kv.dtype)
    inputs = {layer.in_features: random_numbers(tokens, layer.in_features) for layer in layers}
    queries = random_numbers(shape.rows, kv.kv_heads, kv.groups * (1 + shape.candidates), kv.head_dim)
    keys = random_numbers(shape.rows, kv.kv_heads, kv.head_dim, shape.context)
    weights = random_numbers(*queries.shape[:3], shape.context)

    @torch.inference_mode()
    def products() -> Sequence[Tensor]:
        attention = [product[:1] for _ in range(kv.layers) for product in (queries @ keys, weights @ keys.mT)]
        return attention + [layer(inputs[layer.in_features])[:1] for layer in layers]

    return products


def _ms(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - started)
