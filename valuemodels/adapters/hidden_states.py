"""The base model's final hidden states, caught on their way into the logits. Imports torch alone.

vLLM turns hidden states into logits in one module, `logits_processor`, outside of everything it compiles or captures as
a graph. A hook on that module sees the very rows whose logits come next: no second forward, and no copy.
"""

from typing import Any

from torch import Tensor, nn


class HiddenStates:
    """Keeps the rows that the model's latest logits were made from."""

    def __init__(self, model: nn.Module) -> None:
        """
        Raises:
            LookupError: the model has no module of the name `logits_processor`.
        """
        modules = [module for name, module in model.named_modules() if name.split(".")[-1] == "logits_processor"]
        if not modules:
            raise LookupError(f"{type(model).__name__} has no logits_processor: fast scoring cannot see hidden states")
        self._rows: Tensor | None = None
        self._used = 0
        for module in modules:
            module.register_forward_pre_hook(self._note, with_kwargs=True)

    def rows(self, count: int) -> Tensor | None:
        """[count, hidden] the states behind the latest logits; None where those had another number of rows."""
        rows = self._rows
        return rows if rows is not None and rows.shape[0] == count else None

    def next_rows(self, count: int) -> Tensor | None:
        """[count, hidden] the states behind the next of the latest logits; None where there are not as many left.

        vLLM's V2 runner hands logits on in parts where there are many.
        """
        start, self._used = self._used, self._used + count
        rows = self._rows
        return rows[start : self._used] if rows is not None and self._used <= rows.shape[0] else None

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # forward(lm_head, hidden_states, embedding_bias)
        self._used = 0
        self._rows = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]
