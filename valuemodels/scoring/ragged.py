"""Exact scoring's step in as few tokens as there are: rows of any length, one after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor

from valuemodels.models.trunk import ValueModel
from valuemodels.scoring.attention_plan import Segment, plan_attention
from valuemodels.scoring.kv_cache import KVCache
from valuemodels.scoring.parts import Part
from valuemodels.transfers import to_device


class RaggedStep:
    """Values of any number of candidates after every row's prefix."""

    def __init__(self, model: ValueModel, cache: KVCache) -> None:
        self._model = model
        self._cache = cache
        self._vocabulary = model.backbone.get_input_embeddings().weight.shape[0]

    def values(self, parts: Sequence[Part]) -> list[Tensor]:
        """Read what every row has gained, and its candidates; keys of the former are stored.

        Returns:
            Of every part [candidates, objectives] float32.
        """
        segments: list[Segment] = []
        start = 0
        for part in parts:
            segments.append(Segment(start, part.stored, len(part.gained), len(part.candidates), part.table))
            start += segments[-1].width
        hidden = self._hidden(parts, segments)
        # A candidate is what stands after its segment's gained tokens.
        places = [torch.arange(s.start + s.pending, s.start + s.width, device=hidden.device) for s in segments]
        values: Tensor = self._model.head(hidden[torch.cat(places)])
        return list(torch.split(values, [segment.candidates for segment in segments]))

    def _hidden(self, parts: Sequence[Part], segments: Sequence[Segment]) -> Tensor:
        """Last hidden states [tokens, hidden] of the flat batch."""
        device = self._cache.shape.device
        gained = to_device([token for part in parts for token in part.gained], device, torch.int64)
        pieces = zip(torch.split(gained, [len(part.gained) for part in parts]), parts, strict=True)
        token_ids = torch.cat([piece for own, part in pieces for piece in (own, part.candidates.to(device))])
        # Every candidate stands where the next token will stand.
        positions = [p for s in segments for p in (*range(s.stored, s.prefix), *[s.prefix] * s.candidates)]
        # A base may pad its vocabulary beyond the tokenizer's, and further than a trunk of its own does.
        output = self._model.backbone(
            input_ids=token_ids.long().clamp_(max=self._vocabulary - 1)[None],
            position_ids=to_device(positions, device)[None],
            use_cache=False,
            plan=plan_attention(self._cache, segments),
        )
        hidden: Tensor = output.last_hidden_state[0]
        return hidden
