"""Scoring that survives a row which cannot be scored: the others of its batch keep their values. No vLLM."""

import logging
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from valuemodels.contract.throttle import Throttle, left_out
from valuemodels.scoring.exact import ExactScorer, Prefix
from valuemodels.scoring.scorer import Scorer, ScoringBatch
from valuemodels.transfers import to_device

logger = logging.getLogger("vllm.mavis")

_MAX_SUSPECTS = 1024


class RowByRow:
    """Scores a batch at once; where that fails, each of its rows alone.

    A row that failed alone stays under suspicion with that scorer: from then on it is scored apart from the others,
    which so are scored at once again, until it succeeds.
    """

    def __init__(self) -> None:
        self._suspects: OrderedDict[tuple[str, str], None] = OrderedDict()  # checkpoint and sequence
        self._throttle = Throttle()

    def score(self, scorer: Scorer, batch: ScoringBatch) -> Tensor:
        """[rows, k, objectives] values; NaN where a row failed. Never raises: that would end the engine."""
        places = range(len(batch.rows))
        suspected = [p for p in places if (scorer.checkpoint_id, batch.rows[p].sequence_id) in self._suspects]
        if not suspected:
            values = self._try(scorer, batch)
            return values if values is not None else self._each_alone(scorer, batch, self._empty(scorer, batch), places)
        values = self._empty(scorer, batch)
        trusted = [place for place in places if place not in suspected]
        together = self._try(scorer, batch.select(trusted)) if trusted else None
        if together is None:
            return self._each_alone(scorer, batch, values, places)
        values[to_device(trusted, values.device)] = together
        return self._each_alone(scorer, batch, values, suspected)

    def read(self, scorer: ExactScorer, prefixes: Sequence[Prefix]) -> None:
        """Read prefixes ahead. Where that fails nothing is lost: whoever needs them will read them, or fail alone."""
        try:
            scorer.read(prefixes)
        except Exception:  # it would end the engine and every other request with it
            if (held_back := self._throttle.admit()) is not None:
                name, rows = scorer.checkpoint_id, len(prefixes)
                logger.exception("value model %s could not read %d prompts ahead%s", name, rows, left_out(held_back))

    def _each_alone(self, scorer: Scorer, batch: ScoringBatch, values: Tensor, places: Sequence[int]) -> Tensor:
        for place in places:
            suspect = (scorer.checkpoint_id, batch.rows[place].sequence_id)
            found = self._try(scorer, batch.select([place]))
            if found is not None:
                values[place] = found[0]
                self._suspects.pop(suspect, None)
                continue
            self._suspects[suspect] = None
            if len(self._suspects) > _MAX_SUSPECTS:
                self._suspects.popitem(last=False)
        return values

    def _try(self, scorer: Scorer, batch: ScoringBatch) -> Tensor | None:
        try:
            return scorer.score(batch)
        except Exception:  # it would end the engine and every other request with it
            if (held_back := self._throttle.admit()) is not None:
                name, rows = scorer.checkpoint_id, len(batch.rows)
                logger.exception("value model %s failed on %d rows%s", name, rows, left_out(held_back))
            return None

    @staticmethod
    def _empty(scorer: Scorer, batch: ScoringBatch) -> Tensor:
        shape = (*batch.candidates.logits.shape, len(scorer.objectives))
        return torch.full(shape, torch.nan, device=batch.candidates.logits.device)
