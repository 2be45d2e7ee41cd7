"""Fast scoring: a distilled head on the base model's own hidden state. No cache, no second forward.

Nothing is kept of a request, so there is nothing to lose in a preemption or a move, and a row's values depend on its
own state alone.
"""

import torch
from torch import Tensor

from valuemodels.contract.value_config import ProbeConfig, ValueConfig
from valuemodels.models.probe import FoldedProbe, Probe
from valuemodels.scoring.scorer import ScoringBatch


class FastScorer:
    """Values A(h, a) of all candidates from the state h that their logits were made from."""

    gives_levels = False

    def __init__(self, config: ValueConfig, probe_config: ProbeConfig, probe: Probe, embeddings: Tensor) -> None:
        """
        Args:
            probe: on the device to score on, in float32.
            embeddings: [vocabulary, embedding] the base model's, on the same device.
        """
        self.checkpoint_id = config.id
        self.objectives = config.objectives
        self.scales = tuple(probe_config.scales[objective.name] for objective in config.objectives)
        with torch.inference_mode():
            self._probe = FoldedProbe(probe, embeddings)

    @torch.inference_mode()
    def score(self, batch: ScoringBatch) -> Tensor:
        """See `Scorer.score`.

        Raises:
            RuntimeError: nobody has captured the base model's hidden states.
        """
        if batch.hidden is None:
            raise RuntimeError("fast scoring needs the base model's hidden states, and none were captured")
        return self._probe(batch.hidden, batch.candidates.token_ids)
