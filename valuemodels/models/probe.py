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

from valuemodels.contract.value_config import ProbeConfig


class Probe(nn.Module):
    """The head as training sees it, in float32. Serving folds `token` and the embeddings into one table."""

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


def unit_rms(embeddings: Tensor) -> Tensor:
    """Embeddings scaled so that their root mean square over the whole table is 1, in float32."""
    embeddings = embeddings.float()
    return embeddings / embeddings.square().mean().sqrt()
