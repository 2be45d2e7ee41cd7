"""The V1 adapter against vLLM's own interface types, driven by scripted batch events on a tiny model."""

import inspect
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu_input_batch import InputBatch

from tests.conftest import TINY_VOCAB
from valuemodels.guidance import Guidance
from valuemodels.guide_config import GuideConfig
from valuemodels.vllm_v1 import ValueLogitsProcessor


class Batch:
    """A V1 batch in miniature: rows with ids, prompts and live outputs, and the events that reach processors."""

    def __init__(self, processor: ValueLogitsProcessor) -> None:
        self.processor = processor
        self.ids: list[str] = []
        self.requests: dict[str, tuple[SamplingParams, list[int], list[int]]] = {}

    def update(self, *, add=(), remove=(), move=()) -> None:
        """add: (row, id, params, prompt, output); remove: rows; move: (source, target, direction)."""
        for index, request_id, params, prompt, output in add:
            self.ids += [""] * (index + 1 - len(self.ids))
            self.ids[index] = request_id
            self.requests[request_id] = (params, prompt, output)
        for source, target, direction in move:
            if direction == MoveDirectionality.SWAP:
                self.ids[source], self.ids[target] = self.ids[target], self.ids[source]
            else:
                self.ids[target] = self.ids[source]
        added = [(index, params, prompt, output) for index, _, params, prompt, output in add]
        self.processor.update_state(
            BatchUpdate(batch_size=len(self.ids), removed=list(remove), added=added, moved=list(move))
        )

    def step(self, seed: int = 0) -> torch.Tensor:
        """Logits that depend on the request's id alone, so that a row's place cannot matter."""
        self.processor.attach(lambda: self.ids)
        rows = [
            torch.randn(TINY_VOCAB, generator=torch.Generator().manual_seed(zlib.crc32(f"{name}{seed}".encode())))
            for name in self.ids
        ]
        return self.processor.apply(torch.stack(rows))


@pytest.fixture
def processor(tiny_base: str, tiny_checkpoint: Path) -> ValueLogitsProcessor:
    config = GuideConfig(checkpoints=(str(tiny_checkpoint),), base_model=tiny_base, value_dtype="float32")
    vllm_config = SimpleNamespace(
        additional_config={"mavis": config.to_wire()}, model_config=SimpleNamespace(dtype=torch.float32)
    )
    return ValueLogitsProcessor(vllm_config, torch.device("cpu"), False)  # type: ignore[arg-type]


def params(generation: str = "g", **guidance: object) -> SamplingParams:
    wire = Guidance(generation_id=generation, **guidance).to_wire()  # type: ignore[arg-type]
    return SamplingParams(temperature=1.0, extra_args={"mavis": wire})


GUIDED = {"weights": {"warmth": 1.0, "brevity": -0.5}}


def test_the_interface_is_the_one_we_were_written_for():
    """Fails loudly when vLLM moves a seam: names, arguments and order of V1's logits-processor interface."""
    assert list(inspect.signature(LogitsProcessor.__init__).parameters)[1:] == [
        "vllm_config",
        "device",
        "is_pin_memory",
    ]
    assert LogitsProcessor.__abstractmethods__ == {"__init__", "apply", "is_argmax_invariant", "update_state"}
    assert list(BatchUpdate.__dataclass_fields__) == ["batch_size", "removed", "added", "moved"]
    assert isinstance(inspect.getattr_static(InputBatch, "req_ids"), property)
    assert "validate_params" in vars(LogitsProcessor)


def test_rows_that_move_swap_and_leave_keep_their_own_guidance(processor):
    batch = Batch(processor)
    outputs: dict[str, list[int]] = {name: [] for name in "abcd"}
    alone: dict[str, torch.Tensor] = {}
    for weight, name in enumerate("abcd"):
        single = Batch(processor)
        single.update(add=[(0, f"{name}-x", params(name, weights={"warmth": weight / 4}), [3, 4, weight], [])])
        alone[name] = single.step()[0]
        single.update(remove=[0])
    batch.update(
        add=[
            (i, f"{name}-x", params(name, weights={"warmth": i / 4}), [3, 4, i], outputs[name])
            for i, name in enumerate("abcd")
        ]
    )
    torch.testing.assert_close(batch.step(), torch.stack([alone[name] for name in "abcd"]))
    batch.update(move=[(0, 2, MoveDirectionality.SWAP)])
    torch.testing.assert_close(batch.step(), torch.stack([alone[name] for name in "cbad"]))
    batch.update(remove=[1], move=[(3, 1, MoveDirectionality.UNIDIRECTIONAL)])
    batch.ids.pop()
    torch.testing.assert_close(batch.step(), torch.stack([alone[name] for name in "cda"]))


def test_a_request_that_leaves_and_comes_back_goes_on_as_if_it_had_stayed(processor):
    stayed, left = Batch(processor), Batch(processor)
    output: list[int] = []
    add = (0, "same-id", params(**GUIDED), [3, 4, 5], output)
    stayed.update(add=[add])
    for token in (7, 9):
        stayed.step(token)
        output.append(token)
    expected = stayed.step(11)
    left.update(remove=[0])
    left.update(add=[(0, "same-id", params(**GUIDED), [3, 4, 5], [7, 9])])
    torch.testing.assert_close(left.step(11), expected)


def test_a_slot_taken_without_a_removal_belongs_to_the_newcomer(processor):
    batch = Batch(processor)
    batch.update(add=[(0, "first", params("first", **GUIDED), [3, 4], [])])
    batch.step()
    batch.update(add=[(0, "second", SamplingParams(), [5, 6], [])])
    before = batch.step()
    assert (before > float("-inf")).all(), "a plain request in a reused slot is not truncated to the candidates"


def test_plain_and_zero_weight_requests_are_not_even_listed(processor):
    batch = Batch(processor)
    batch.update(
        add=[
            (0, "plain", SamplingParams(), [3], []),
            (1, "zero", params("zero", weights={"warmth": 0.0}), [3], []),
            (2, "still", params("still", weights={"warmth": 1.0}, beta=0.0), [3], []),
        ]
    )
    logits = torch.randn(3, TINY_VOCAB)
    assert torch.equal(processor.apply(logits.clone()), logits)
    assert processor.guide.guided_rows == 0


def test_children_of_one_request_have_their_own_traces(processor):
    batch = Batch(processor)
    shared, outputs = params("g", **GUIDED), [[], []]
    batch.update(add=[(i, f"{i}_g-0a1b", shared, [3, 4], outputs[i]) for i in range(2)])
    tilted = batch.step()
    for i, output in enumerate(outputs):
        output.append(int(tilted[i].argmax()))
    traces = processor.guide.traces.read({"g": {}})["g"]
    assert traces.keys() == {"0:0", "0:1"}
    assert [traces[f"0:{i}"]["token_ids"] for i in range(2)] == outputs


def test_guided_requests_before_attach_are_an_error_that_says_what_to_call(processor):
    processor.update_state(BatchUpdate(1, removed=[], added=[(0, params(**GUIDED), [3], [])], moved=[]))
    with pytest.raises(RuntimeError, match="mavis_attach"):
        processor.apply(torch.randn(1, TINY_VOCAB))


def test_guidance_that_is_not_ours_is_refused_at_admission():
    forged = SamplingParams(extra_args={"mavis": {"generation_id": "x", "weights": {"warmth": 99}}})
    with pytest.raises(ValueError, match=r"vllm_xargs\.mavis is reserved"):
        ValueLogitsProcessor.validate_params(forged)
    ValueLogitsProcessor.validate_params(SamplingParams(extra_args={"mavis": Guidance("x")}))
    ValueLogitsProcessor.validate_params(SamplingParams())
