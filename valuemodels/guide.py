"""The value guide: logits in, tilted logits out, for every row that asked. Lives in the worker and in training.

Knows nothing of vLLM: an adapter tells it which rows there are, and hands in their logits.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from valuemodels.checkpoint import load_value_model
from valuemodels.guidance import GuidancePolicy, GuideConfig, ResolvedGuidance
from valuemodels.scorer import ExactScorer, Query, Scorer
from valuemodels.tilting import (
    NEG_INF,
    Candidates,
    Tilt,
    centred_values,
    select_candidates,
    tilt,
    weighted_advantage,
)
from valuemodels.traces import Step, TraceStore
from valuemodels.value_config import CheckpointError, read_value_config

logger = logging.getLogger("vllm.mavis")


@dataclass(frozen=True, slots=True)
class Row:
    """One row of this step's logits.

    Attributes:
        index: the row's place in the logits.
        sequence_id: the engine's id of the request behind it.
        generation_id: empty where nobody will ask for a trace.
        choice: "<prompt index>:<index within n>"; temperature: 0 = greedy.
        prompt, output: token ids; `output` is the engine's live list.
    """

    index: int
    sequence_id: str
    generation_id: str
    choice: str
    guidance: ResolvedGuidance
    temperature: float
    prompt: Sequence[int]
    output: Sequence[int]


@dataclass(slots=True)
class Counters:
    """What has happened since the start."""

    guided_rows: int = 0
    value_fallback_rows: int = 0


def needs_values(guidance: ResolvedGuidance) -> bool:
    """True where a request is tilted, or wants to see the values of an untilted answer."""
    return not guidance.is_plain or guidance.trace != "totals"


class ValueGuide:
    """Scores candidates and tilts logits towards the objectives each row weighs."""

    def __init__(
        self, scorers: Sequence[Scorer], policy: GuidancePolicy, device: torch.device, max_traces: int
    ) -> None:
        """`policy.objectives` lists the scorers' objectives, in the scorers' order."""
        self.scorers = list(scorers)
        self.policy = policy
        self.device = device
        self.traces = TraceStore(max_traces)
        self.counters = Counters()
        objectives = [objective for scorer in self.scorers for objective in scorer.objectives]
        assert tuple(o.name for o in objectives) == policy.objectives, (objectives, policy.objectives)
        self._scales, self._means, self._stds = (
            torch.tensor([getattr(o, name) for o in objectives], dtype=torch.float32, device=device)
            for name in ("scale", "mean", "std")
        )

    @classmethod
    def load(cls, config: GuideConfig, device: torch.device, base_dtype: torch.dtype) -> "ValueGuide":
        """Load every checkpoint of a config.

        Raises:
            CheckpointError: a checkpoint is broken or does not fit the base, or two name the same objective.
            GuidanceError: the operator's defaults do not fit the objectives.
        """
        dtype = resolve_dtype(config.value_dtype, device, base_dtype)
        policy = config.policy(objective_names(config.checkpoints))
        cache_bytes = int(config.cache_gib * 2**30 / len(config.checkpoints))
        scorers = []
        for folder in config.checkpoints:
            model = load_value_model(
                folder, config.base_model, dtype=dtype, device=device, base_revision=config.base_revision
            )
            scorers.append(ExactScorer(model, cache_bytes))
        return cls(scorers, policy, device, config.max_traces)

    @torch.inference_mode()
    def step(self, logits: Tensor, rows: Sequence[Row]) -> Tensor:
        """Tilt, in place, the logits of the rows that ask for it; all others stay as they are, bit for bit.

        Args:
            logits: [batch, vocab] float32.
            rows: the rows that `needs_values`.
        """
        if not rows:
            return logits
        candidates = self._select(logits, rows)
        values = self._score(candidates, rows)
        scored = self._finite_rows(values, candidates, rows)
        tilted = self._tilt(candidates, values, rows)
        self._write(logits, candidates, tilted, rows, scored)
        self._record(candidates, values, tilted, rows, scored)
        self.counters.guided_rows += len(rows)
        return logits

    def _select(self, logits: Tensor, rows: Sequence[Row]) -> Candidates:
        index = torch.tensor([row.index for row in rows], device=self.device)
        counts = torch.tensor([row.guidance.candidates for row in rows], device=self.device)
        return select_candidates(logits[index], counts, max(row.guidance.candidates for row in rows))

    def _score(self, candidates: Candidates, rows: Sequence[Row]) -> Tensor:
        """Values [rows, k, objectives]; NaN where a scorer failed, 0 where there is no candidate."""
        counts = candidates.valid.sum(-1).tolist()
        queries = [
            Query(row.sequence_id, [*row.prompt, *row.output], candidates.token_ids[r, : counts[r]])
            for r, row in enumerate(rows)
        ]
        parts = [self._score_with(scorer, queries, candidates) for scorer in self.scorers]
        return torch.cat(parts, dim=-1)

    def _score_with(self, scorer: Scorer, queries: Sequence[Query], candidates: Candidates) -> Tensor:
        values = torch.zeros(*candidates.logits.shape, len(scorer.objectives), device=self.device)
        try:
            for r, found in enumerate(scorer.score(queries)):
                values[r, : found.shape[0]] = found
        except Exception:  # it would end the engine and every other request with it
            logger.exception("value model %s failed; its rows fall back to the base model", scorer.checkpoint_id)
            values.fill_(torch.nan)
        return values

    def _finite_rows(self, values: Tensor, candidates: Candidates, rows: Sequence[Row]) -> list[bool]:
        """Per row: True where every value that has a weight is finite, and there is a candidate at all."""
        coefficients = self._coefficients(rows)
        weighted = (coefficients != 0)[:, None, :] | torch.tensor(
            [row.guidance.is_plain for row in rows], device=self.device
        )[:, None, None]
        broken = (~values.isfinite()) & weighted & candidates.valid[..., None]
        finite: list[bool] = (~broken.any(dim=1).any(dim=1) & candidates.valid.any(dim=1)).tolist()
        if not all(finite):
            self.counters.value_fallback_rows += finite.count(False)
            names = [self.policy.objectives[i] for i in broken.any(dim=0).any(dim=0).nonzero().flatten().tolist()]
            logger.warning("values of %s are not finite: %d rows fall back to the base", names, finite.count(False))
        return finite

    def _coefficients(self, rows: Sequence[Row]) -> Tensor:
        weights = torch.tensor([row.guidance.weights for row in rows], dtype=torch.float32, device=self.device)
        return weights * self._scales

    def _tilt(self, candidates: Candidates, values: Tensor, rows: Sequence[Row]) -> Tilt:
        # Rows that fall back are replaced later; here their numbers must only be harmless.
        advantage = weighted_advantage(values, self._coefficients(rows)).nan_to_num(0.0, 0.0, 0.0)
        budgets = [row.guidance.kl_budget for row in rows]
        budget = None
        if any(b is not None for b in budgets):
            budget = torch.tensor([torch.inf if b is None else b for b in budgets], device=self.device)
        return tilt(
            candidates,
            advantage,
            torch.tensor([row.temperature for row in rows], dtype=torch.float32, device=self.device),
            torch.tensor([row.guidance.beta for row in rows], dtype=torch.float32, device=self.device),
            budget,
        )

    def _write(
        self, logits: Tensor, candidates: Candidates, tilted: Tilt, rows: Sequence[Row], scored: Sequence[bool]
    ) -> None:
        for r, row in enumerate(rows):
            if row.guidance.is_plain or not scored[r]:
                continue
            valid = candidates.valid[r]
            logits[row.index] = NEG_INF
            logits[row.index, candidates.token_ids[r, valid]] = tilted.logits[r, valid]

    def _record(
        self, candidates: Candidates, values: Tensor, tilted: Tilt, rows: Sequence[Row], scored: Sequence[bool]
    ) -> None:
        counts = candidates.valid.sum(-1).tolist()
        centred = centred_values(values, tilted.base_logprobs).tolist()
        levels = (values * self._stds + self._means).tolist()
        token_ids, kl = candidates.token_ids.tolist(), tilted.kl.tolist()
        base, after = tilted.base_logprobs.tolist(), tilted.logprobs.tolist()
        for r, row in enumerate(rows):
            if not row.generation_id:
                continue
            trace = self.traces.open(row.generation_id, row.choice, row.guidance.trace, row.output)
            n = counts[r]
            step = Step(token_ids[r][:n], kl[r], centred[r][:n], levels[r][:n], base[r][:n], after[r][:n])
            trace.record(step if scored[r] else None)

    def stats(self) -> dict[str, int]:
        """Counters since the start and the cache's present size."""
        caches = [scorer.cache for scorer in self.scorers if isinstance(scorer, ExactScorer)]
        return {
            "guided_rows": self.counters.guided_rows,
            "value_fallback_rows": self.counters.value_fallback_rows,
            "cache_bytes": sum(cache.bytes for cache in caches),
            "cache_capacity_bytes": sum(cache.budget_bytes for cache in caches),
            "cached_sequences": sum(len(cache) for cache in caches),
            "cache_evictions": sum(cache.evictions for cache in caches),
        }


def objective_names(checkpoints: Sequence[str]) -> tuple[str, ...]:
    """The objectives of several checkpoints, in order.

    Raises:
        CheckpointError: a config is broken, or two checkpoints name the same objective.
    """
    owner: dict[str, str] = {}
    for folder in checkpoints:
        for name in read_value_config(folder).names:
            if name in owner:
                raise CheckpointError(f"objective {name} is in both {owner[name]} and {folder}; serve only one of them")
            owner[name] = folder
    return tuple(owner)


def resolve_dtype(
    name: Literal["auto", "float32", "bfloat16", "float16"], device: torch.device, base_dtype: torch.dtype
) -> torch.dtype:
    """The dtype value models run in.

    "auto" is the base's own, except on CPUs without bfloat16 arithmetic, where float32 is several times faster.
    """
    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type != "cpu":
        return base_dtype
    capabilities = torch.cpu.get_capabilities()
    native = capabilities.get("avx512_bf16") or capabilities.get("amx_bf16")
    return torch.bfloat16 if native and base_dtype == torch.bfloat16 else torch.float32
