"""Fast scoring: all candidates valued at once, from one hidden state and a table of token features.

With the state h that the base model (or the value trunk) has after the prefix, and e_a the base's embedding of token a,

    A_i(h, a) = <q_i(h), W e_a> / sqrt(rank) + b_i(a),      q(h) = MLP(LayerNorm(h))

W e_a is computed once for the whole vocabulary, so a step costs a small product a row. The head is distilled from exact
values centred on the base's expectation: it tells candidates apart and says nothing of how good the prefix is.
Imports torch and transformers; knows nothing of vLLM.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from valuemodels.contract.value_config import ProbeConfig


class Probe(nn.Module):
    """The head as training sees it, in float32. Serving runs it as `FoldedProbe`."""

    def __init__(
        self, hidden_size: int, embedding_size: int, vocabulary: int, objectives: int, config: ProbeConfig
    ) -> None:
        """
        Args:
            hidden_size: of the states it reads; embedding_size: of the base's token embeddings.
            vocabulary: rows of the base's embedding table.
        """
        super().__init__()
        self.rank = config.rank
        self.objectives = objectives
        self.norm = nn.LayerNorm(hidden_size)
        self.state = nn.Sequential(
            nn.Linear(hidden_size, config.hidden), nn.SiLU(), nn.Linear(config.hidden, objectives * config.rank)
        )
        self.token = nn.Linear(embedding_size, config.rank, bias=False)
        self.bias = nn.Parameter(torch.zeros(vocabulary, objectives))

    def queries(self, hidden: Tensor) -> Tensor:
        """[rows, hidden] -> [rows, objectives, rank], scaled."""
        queries = cast(Tensor, self.state(self.norm(hidden.float()))).reshape(-1, self.objectives, self.rank)
        return queries / math.sqrt(self.rank)

    def token_table(self, embeddings: Tensor) -> Tensor:
        """Features of every token: [vocabulary, embedding] -> [vocabulary, rank]."""
        return cast(Tensor, self.token(unit_rms(embeddings)))

    def forward(self, hidden: Tensor, token_features: Tensor, token_ids: Tensor) -> Tensor:
        """Values of candidates.

        Args:
            hidden: [rows, hidden].
            token_features: [rows, k, rank], rows of `token_table`.
            token_ids: [rows, k].

        Returns:
            [rows, k, objectives]
        """
        return torch.baddbmm(self.bias[token_ids], token_features, self.queries(hidden).transpose(1, 2))


class FoldedProbe:
    """A probe as serving runs it, with as few and as large operations as can be: cold ones are dear between forwards.

    W e_a / sqrt(rank) and b(a) stand in one table, [vocabulary, rank + objectives]; queries are widened by a row of the
    identity, so that one product adds the bias. The norm's affine part is folded into the layer behind it.
    """

    def __init__(self, probe: Probe, embeddings: Tensor) -> None:
        """Args: `embeddings`: [vocabulary, embedding] the base model's, on the probe's device."""
        first, last = cast(nn.Linear, probe.state[0]), cast(nn.Linear, probe.state[2])
        objectives, rank = probe.objectives, probe.rank
        self._shape = (objectives, rank + objectives)
        self._norm_shape, self._eps = probe.norm.normalized_shape, probe.norm.eps
        self._table = torch.cat([probe.token_table(embeddings) / math.sqrt(rank), probe.bias], dim=1)
        self._first = (first.weight * probe.norm.weight, first.bias + first.weight @ probe.norm.bias)
        weight = functional.pad(last.weight.view(objectives, rank, -1), (0, 0, 0, objectives))
        identity = torch.eye(objectives, dtype=last.bias.dtype, device=last.bias.device)
        bias = torch.cat([last.bias.view(objectives, rank), identity], dim=1)
        self._last = (weight.flatten(0, 1), bias.flatten())

    def __call__(self, hidden: Tensor, token_ids: Tensor) -> Tensor:
        """Values [rows, k, objectives] of candidates. hidden: [rows, hidden]; token_ids: [rows, k]."""
        normal = functional.layer_norm(hidden.float(), self._norm_shape, eps=self._eps)
        state = functional.silu(functional.linear(normal, *self._first))
        queries = functional.linear(state, *self._last).view(-1, *self._shape)
        return torch.bmm(functional.embedding(token_ids, self._table), queries.transpose(1, 2))


def unit_rms(embeddings: Tensor) -> Tensor:
    """Embeddings scaled so that their root mean square over the whole table is 1, in float32."""
    embeddings = embeddings.float()
    return embeddings / embeddings.square().mean().sqrt()
