"""What noting a step for a text's totals takes, apart from all else. Imports torch; runs in a process of its own."""

import time

import torch

from valuemodels.contract.guidance import ChoiceName, ResolvedGuidance
from valuemodels.guide.step_record import StepRecord
from valuemodels.guide.traces import TraceStore
from valuemodels.scoring.rows import Row

_CANDIDATES, _TOKENS, _WARM_UP = 40, 512, 64


def recording_ms(rows: int, objectives: int) -> float:
    """Mean over many steps of as many texts: each step noted, its tokens settled with others', all read at the end."""
    store = TraceStore(max_generations=rows)
    outputs: list[list[int]] = [[] for _ in range(rows)]
    ones = (1.0,) * objectives
    guidance = ResolvedGuidance(ones, 1.0, _CANDIDATES, None, "fast", "totals", ones, (0.0,) * objectives)
    texts = [Row(r, f"{r}", f"{r}", ChoiceName(0, 0), guidance, 1.0, [1], output) for r, output in enumerate(outputs)]
    seconds = 0.0
    for number in range(_WARM_UP + _TOKENS):
        step = _step(rows, objectives)
        started = time.perf_counter()
        store.record(step, texts)
        seconds += time.perf_counter() - started if number >= _WARM_UP else 0.0
        for output in outputs:
            output.append(1)
    started = time.perf_counter()
    store.read({f"{r}": {} for r in range(rows)})
    return 1000 * (seconds + time.perf_counter() - started) / _TOKENS


def _step(rows: int, objectives: int) -> StepRecord:
    yes, no = torch.ones(rows, dtype=torch.bool), torch.zeros(rows, dtype=torch.bool)
    return StepRecord(
        token_ids=torch.arange(_CANDIDATES).repeat(rows, 1),
        logits=torch.randn(rows, _CANDIDATES),
        shift=torch.randn(rows, _CANDIDATES),
        temperature=torch.ones(rows),
        values=torch.randn(rows, _CANDIDATES, objectives),
        needed=yes[:, None].expand(rows, objectives),
        dropped=torch.zeros(rows),
        is_sound=yes,
        is_aborted=no,
        is_level=no,
        means=torch.zeros(objectives),
        stds=torch.ones(objectives),
    )
