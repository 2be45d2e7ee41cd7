"""What vLLM's V2 runner lacks on a CPU, for tests: Triton, whose interpreter does its kernels' work.

vLLM looks whether Triton has a backend named "cpu"; the interpreter needs none, so one that does nothing stands there.
Slow, and the same code as on a GPU: only tiny models and vocabularies make sense.
"""

import importlib
import os
from typing import Any


class InterpretedDriver:
    """Never asked for anything else."""

    @classmethod
    def is_active(cls) -> bool:
        return False


def enable() -> None:
    """Must come before vLLM's first import; for this process."""
    assert os.environ.get("TRITON_INTERPRET") == "1", "Triton looks for it when it is imported first"
    triton: Any = importlib.import_module("triton.backends")
    triton.backends["cpu"] = triton.Backend(compiler=None, driver=InterpretedDriver)
    _keep_comparisons_boolean()


def _keep_comparisons_boolean() -> None:
    """The interpreter gives comparisons their operands' type, over which the kernel that proposes n-grams stumbles."""
    language: Any = importlib.import_module("triton.language")
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    plain = interpreter.InterpreterBuilder.binary_op

    def binary_op(self: Any, lhs: Any, rhs: Any, op: Any) -> Any:
        found = plain(self, lhs, rhs, op)
        return interpreter.TensorHandle(found.data, language.int1) if found.data.dtype == bool else found

    interpreter.InterpreterBuilder.binary_op = binary_op
