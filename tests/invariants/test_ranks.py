"""Several ranks of one engine. Under tensor parallelism each of them samples on its own, so all must tilt alike; in a
pipeline only the last one does.

Every test says in a line which bug it would catch.
"""

import os
from pathlib import Path
from typing import Any

import pytest

from tests.invariants import triton_on_cpu
from tests.invariants.conftest import only_float32, tiny_guide
from tests.invariants.engine import IS_V2, generate, generate_stepwise, open_engine, preemptions, traces_of_ranks
from tests.invariants.kit import assert_trace_is_exact, guided, request
from tests.invariants.test_changes import NEW, change
from valuemodels.contract.guidance import Scoring
from valuemodels.models.trunk import ValueModel

pytestmark = [pytest.mark.engine, pytest.mark.processes, *([pytest.mark.slow] if IS_V2 else [])]

opened: list[Any] = []
"""To the end: an engine that is closed takes its process's groups along, and with them the other engines."""
SCORINGS: list[Scoring] = ["fast", "exact", "hybrid"]


@pytest.fixture(scope="session", params=["tensor", "pipeline"] if IS_V2 else ["tensor"])
def ranks(
    request: pytest.FixtureRequest,
    engine_base: str,
    engine_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    """An engine of two ranks, each in a process of its own. On a CPU vLLM's pipelines run with V2 alone."""
    split: dict[str, Any] = {f"{request.param}_parallel_size": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_SIM_MULTI_NUMA", "1")
        if IS_V2:  # their processes need Triton's interpreter before they import anything of vLLM's
            site = tmp_path_factory.mktemp("site")
            (site / "sitecustomize.py").write_text(f"from {triton_on_cpu.__name__} import enable\nenable()\n")
            patch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(Path(__file__).parents[2])]))
        opened.append(open_engine(engine_base, tiny_guide(engine_base, engine_checkpoint), **split))
    return opened[-1]


@only_float32
def test_all_ranks_tilt_alike_and_as_one_does(engine: Any, ranks: Any, uncached: ValueModel) -> None:
    """Catches ranks that sample by other values, or that know other requests."""
    asked = [request(40, 140 + i, guided(scoring=SCORINGS[i % 3]), max_tokens=40) for i in range(8)]
    asked.insert(3, request(30, 148))
    before = preemptions(ranks)
    answers = generate(ranks, asked)
    assert preemptions(ranks) > before, "the test needs an engine short of memory"
    names = [r["guidance"].generation_id for r in asked if "guidance" in r]
    found = traces_of_ranks(ranks, *names)
    assert all(each == found[0] for each in found) and len(found[0]) == len(names)
    assert len(found) == ranks.llm_engine.vllm_config.parallel_config.tensor_parallel_size, "those that sample"
    for r, (output,) in zip(asked, answers, strict=True):
        again = {**r, "guidance": guided(scoring=r["guidance"].scoring)} if "guidance" in r else r
        assert generate(engine, [again]) == [[output]]
        if "guidance" in r and r["guidance"].scoring == "exact":
            assert_trace_is_exact(uncached, r["prompt"], output, found[0][r["guidance"].generation_id]["0:0"])


@only_float32
def test_a_change_reaches_all_ranks_before_the_same_token(ranks: Any) -> None:
    """Catches a change that one rank takes over a step before the other: they would sample different tokens."""
    asked = request(18, 162, guided(scoring="fast"), max_tokens=24)
    name = asked["guidance"].generation_id
    told: list[dict[str, Any]] = []

    def before_step(at: int) -> None:
        if at in (7, 16):
            told.append(change(ranks, name, **(NEW if at == 7 else {"warmth": 0.5})))

    generate_stepwise(ranks, asked, before_step)
    assert told == [{name: {"0:0": at}} for at in (7, 16)]
    found = traces_of_ranks(ranks, name)
    assert all(each == found[0] for each in found)
    assert [settings[0] for settings in found[0][name]["0:0"]["settings"]] == [0, 7, 16]
