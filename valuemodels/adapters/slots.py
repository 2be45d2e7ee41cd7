"""What V2's adapter knows of the requests in the runner's slots, and how their tokens come to the host.

V2 keeps tokens on the device. How many a sequence has is known on the host, and which they are only where somebody has
asked: the value models of exact and hybrid scoring do, and traces, some time later. No vLLM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from valuemodels.adapters.requests import EngineParams, RunningRequest
from valuemodels.scoring.rows import UNKNOWN_TOKEN
from valuemodels.transfers import Arrival, to_device


@dataclass(slots=True, eq=False)
class SlotRequest:
    """A request since it last entered the batch.

    Attributes:
        request_id: the engine's; slot: where it stands, while the runner says so.
        params: as it was added; running: what the guide knows of it, with unknown tokens in its lists.
        prompt_tokens: how many its prompt has.
        reached: how many tokens have been sampled by the end of its latest step.
        known_prompt, known_output: how many tokens of either are known, from the first on.
    """

    request_id: str
    slot: int
    params: EngineParams
    running: RunningRequest
    prompt_tokens: int
    reached: int = 0
    known_prompt: int = 0
    known_output: int = 0

    def reach(self, tokens: int) -> None:
        """The sequence has so many tokens now, whichever they are."""
        prompt, output = self.running.prompt, self.running.output
        prompt += [UNKNOWN_TOKEN] * (min(tokens, self.prompt_tokens) - len(prompt))
        output += [UNKNOWN_TOKEN] * (tokens - self.prompt_tokens - len(output))

    def missing(self, *, prompt: bool) -> list[int]:
        """The places in the sequence of the tokens that are unknown.

        Args:
            prompt: whether those of the prompt are wanted, too.
        """
        first = self.prompt_tokens
        of_prompt = range(self.known_prompt, len(self.running.prompt)) if prompt else ()
        return [*of_prompt, *range(first + self.known_output, first + len(self.running.output))]

    def learn(self, places: Sequence[int], tokens: Sequence[int]) -> None:
        """Put in tokens that were missing."""
        for place, token in zip(places, tokens, strict=True):
            if (at := place - self.prompt_tokens) < 0:
                self.running.prompt[place] = token
                self.known_prompt = max(self.known_prompt, place + 1)
            else:
                self.running.output[at] = token
                self.known_output = max(self.known_output, at + 1)


class ComingTokens:
    """Tokens on their way to the host: one copy, whatever their number and whosever they are."""

    def __init__(self, table: Tensor, places: Mapping[SlotRequest, Sequence[int]]) -> None:
        """
        Args:
            table: [slots, places] token ids, on the device.
            places: of every request, those that are wanted.
        """
        self._places = {request: some for request, some in places.items() if some}
        slots = [request.slot for request, some in self._places.items() for _ in some]
        index = to_device([slots, [at for some in self._places.values() for at in some]], table.device)
        self._tokens = Arrival(table[index[0], index[1]]) if slots else None

    @property
    def are_here(self) -> bool:
        """Whether `learn` need not wait."""
        return self._tokens is None or self._tokens.is_here

    def learn(self) -> None:
        """Tell the requests."""
        if self._tokens is None:
            return
        found = iter(self._tokens.read().tolist())
        for request, some in self._places.items():
            request.learn(some, [next(found) for _ in some])
