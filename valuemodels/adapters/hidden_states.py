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
        for module in modules:
            module.register_forward_pre_hook(self._note, with_kwargs=True)

    def rows(self, count: int) -> Tensor | None:
        """[count, hidden] the states behind the latest logits; None where those had another number of rows."""
        rows = self._rows
        return rows if rows is not None and rows.shape[0] == count else None

    def _note(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # forward(lm_head, hidden_states, embedding_bias)
        self._rows = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]
