"""The value guide: logits in, tilted logits out, for every row that asked. Lives in the worker and in training.

Knows nothing of vLLM: an adapter tells it which rows there are, and hands in their logits and hidden states. A step
works on whole batches and does not wait for the device. Only where candidates are read on a CPU is it asked, once, how
many a row has; and a recorder, in training, copies more.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from valuemodels.contract.guidance import Scoring
from valuemodels.contract.policy import GuidancePolicy
from valuemodels.guide.fallbacks import Fallbacks
from valuemodels.guide.recorder import PositionRecorder
from valuemodels.guide.row_by_row import RowByRow
from valuemodels.guide.row_settings import RowSettings, SettingsOfRows
from valuemodels.guide.step_record import StepRecord, broken
from valuemodels.guide.traces import TraceStore
from valuemodels.scoring.exact import Prefix
from valuemodels.scoring.hybrid import reader_of
from valuemodels.scoring.rows import Row
from valuemodels.scoring.scorer import Scorer, ScoringBatch
from valuemodels.tilting import (
    Candidates,
    Tilt,
    dropped_mass,
    prune,
    select_candidates,
    tilt,
    weighted_values,
    write_only,
    write_tilted,
)
from valuemodels.transfers import to_device


class ValueGuide:
    """Scores candidates and tilts logits towards the objectives each row weighs."""

    def __init__(
        self,
        scorers: Mapping[Scoring, Sequence[Scorer]],
        policy: GuidancePolicy,
        device: torch.device,
        max_traces: int,
    ) -> None:
        """Args: `scorers`: of every scoring, those whose objectives together are `policy.objectives`, in its order."""
        self.scorers = {scoring: list(some) for scoring, some in scorers.items()}
        self.policy = policy
        self.device = device
        self.traces = TraceStore(max_traces)
        self.recorder: PositionRecorder | None = None
        self.guided_rows = 0
        self._fallbacks = Fallbacks(policy.objectives, device)
        self._row_by_row = RowByRow()
        aborts = [policy.on_value_error.get(name) == "abort" for name in policy.objectives]
        self._aborts = torch.tensor(aborts, device=device) if any(aborts) else None
        for some in self.scorers.values():
            names = tuple(objective.name for scorer in some for objective in scorer.objectives)
            assert names == policy.objectives, (names, policy.objectives)
        scales = {scoring: [s for scorer in some for s in scorer.scales] for scoring, some in scorers.items()}
        readers = [reader_of(scorer) for some in self.scorers.values() for scorer in some]
        self._readers = list(dict.fromkeys(reader for reader in readers if reader is not None))
        levels = {scoring: some[0].gives_levels for scoring, some in scorers.items()}
        self._settings = SettingsOfRows(scales, levels, device)
        objectives = [o for scorer in next(iter(self.scorers.values())) for o in scorer.objectives]
        self._means = torch.tensor([o.mean for o in objectives], device=device)
        self._stds = torch.tensor([o.std for o in objectives], device=device)

    @torch.inference_mode()
    def step(self, logits: Tensor, rows: Sequence[Row], hidden: Tensor | None = None) -> Tensor:
        """Tilt, in place, the logits of the rows that ask for it; all others stay as they are, bit for bit.

        Args:
            logits: [batch, vocab] float32.
            rows: the rows that `needs_values`.
            hidden: [batch, hidden] the base's final hidden states, from which `logits` were made; fast scoring needs
                them.
        """
        if not rows:
            return logits
        settings = self._settings.of(rows)
        batch, dropped = self._batch(logits, rows, settings, hidden)
        values = self._score(batch, settings)
        tilted = self._tilt(batch.candidates, values, settings)
        self._write(logits, batch.candidates, tilted, settings)
        aborted = self._abort(logits, settings, values, batch.candidates)
        self._record(batch, settings, values, tilted, aborted, dropped)
        self.guided_rows += len(rows)
        return logits

    @torch.inference_mode()
    def read_ahead(self, rows: Sequence[tuple[Row, int]]) -> None:
        """Let exact scoring read prompts while the base does, chunk by chunk, and not all at once at their end.

        Args:
            rows: whose tokens are not sampled yet, and how many tokens of their sequences are to be read.
        """
        prefixes = [
            Prefix(row.sequence_id, row.token_ids[:tokens], row.cache_salt)
            for row, tokens in rows
            if row.guidance.scoring != "fast"
        ]
        for reader in self._readers if prefixes else ():
            self._row_by_row.read(reader, prefixes)

    def _batch(
        self, logits: Tensor, rows: Sequence[Row], settings: RowSettings, hidden: Tensor | None
    ) -> tuple[ScoringBatch, Tensor]:
        """The rows to score, and the base's probability [rows] of the candidates that they are not to be scored for."""
        if len(rows) < logits.shape[0]:
            logits, hidden = logits[settings.index], None if hidden is None else hidden[settings.index]
        candidates = select_candidates(logits, settings.counts, settings.width, self.policy.max_candidates)
        kept, dropped = candidates, settings.zeros
        if settings.least is not None:
            kept = prune(candidates, settings.least)
            dropped = dropped_mass(candidates, kept, settings.temperature)
        return ScoringBatch(rows, kept, settings.coefficients, settings.temperature, hidden), dropped

    def _score(self, batch: ScoringBatch, settings: RowSettings) -> Tensor:
        """Values [rows, k, objectives]; NaN where a scorer failed."""
        if len(settings.places) == 1:
            return self._score_by(next(iter(settings.places)), batch)
        shape = (*batch.candidates.logits.shape, len(self.policy.objectives))
        values = torch.zeros(shape, device=self.device)
        for scoring, places in settings.places.items():
            index = to_device(places, self.device)
            values[index] = self._score_by(scoring, batch.select(places))
        return values

    def _score_by(self, scoring: Scoring, batch: ScoringBatch) -> Tensor:
        values: list[Tensor] = []
        start = 0
        for scorer in self.scorers[scoring]:
            stop = start + len(scorer.objectives)
            values.append(self._row_by_row.score(scorer, batch.of_objectives(start, stop)))
            start = stop
        return values[0] if len(values) == 1 else torch.cat(values, dim=-1)

    def _tilt(self, candidates: Candidates, values: Tensor, settings: RowSettings) -> Tilt:
        free = weighted_values(values, settings.free, all_weigh=settings.all_weigh)
        pinned = None if settings.pinned is None else weighted_values(values, settings.pinned)
        return tilt(candidates, free, settings.temperature, kl_budget=settings.kl_budget, pinned=pinned)

    def _write(self, logits: Tensor, candidates: Candidates, tilted: Tilt, settings: RowSettings) -> None:
        index = None if len(settings.index) == logits.shape[0] else settings.index
        # Unless some were left out, the candidates' logits are what stands at their places.
        before = candidates.logits if settings.counts is None and settings.least is None else None
        write_tilted(logits, index, candidates, tilted.logits, tilted.is_sound & settings.tilts, before)

    def _abort(self, logits: Tensor, settings: RowSettings, values: Tensor, candidates: Candidates) -> Tensor:
        """End the rows whose broken objective must not be done without: nothing but their last token is left.

        Returns:
            [rows] bool.
        """
        if self._aborts is None:
            return settings.nobody
        aborted = (broken(values, candidates.valid, settings.needed) & self._aborts).any(1) & settings.tilts
        write_only(logits, settings.index, settings.last_tokens, aborted)
        return aborted

    def _record(
        self,
        batch: ScoringBatch,
        settings: RowSettings,
        values: Tensor,
        tilted: Tilt,
        aborted: Tensor,
        dropped: Tensor,
    ) -> None:
        step = StepRecord(
            token_ids=batch.candidates.token_ids,
            logits=tilted.base_logits,
            shift=tilted.shift,
            temperature=tilted.temperature,
            values=values,
            needed=settings.needed,
            dropped=dropped,
            is_sound=tilted.is_sound,
            is_aborted=aborted,
            is_level=settings.gives_levels,
            means=self._means,
            stds=self._stds,
        )
        self._fallbacks.note(step)
        self.traces.record(step, batch.rows)
        if self.recorder is not None:
            self.recorder.note(batch, step)

    def stats(self) -> dict[str, int]:
        """Counters since the start and the cache's present size."""
        caches = [reader.cache for reader in self._readers]
        return {
            "guided_rows": self.guided_rows,
            "value_fallback_rows": self._fallbacks.count(),
            "traces": len(self.traces),
            "cache_bytes": sum(cache.bytes for cache in caches),
            "cache_capacity_bytes": sum(cache.budget_bytes for cache in caches),
            "cached_sequences": sum(len(cache) for cache in caches),
            "cache_evictions": sum(cache.evictions for cache in caches),
            "cache_shared_tokens": sum(cache.shared_tokens for cache in caches),
        }
