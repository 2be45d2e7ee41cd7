"""The V1 adapter against vLLM's own interface types, driven by scripted batch events on a tiny model."""

import inspect
import zlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality
from vllm.v1.worker.gpu_input_batch import InputBatch

from tests.conftest import TINY_VOCAB
from valuemodels.adapters.processor import Attachment
from valuemodels.adapters.requests import next_tokens
from valuemodels.adapters.vllm_v1 import ValueLogitsProcessor
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName, Guidance, ScheduledChange
from valuemodels.contract.guide_config import GuideConfig


class Batch:
    """A V1 batch in miniature: rows with ids, prompts and live outputs, and the events that reach processors."""

    def __init__(self, processor: ValueLogitsProcessor) -> None:
        self.processor = processor
        self.ids: list[str] = []
        self.requests: dict[str, tuple[SamplingParams, list[int], list[int]]] = {}
        self.unfinished: dict[int, int] = {}

    def update(self, *, add: Any = (), remove: Any = (), move: Any = ()) -> None:
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

    def known(self) -> dict[str, Any]:
        """As the runner keeps them."""
        return {
            name: SimpleNamespace(sampling_params=params, output_token_ids=output)
            for name, (params, _, output) in self.requests.items()
        }

    def step(self, seed: int = 0) -> torch.Tensor:
        """Logits that depend on the request's id alone, so that a row's place cannot matter."""
        self.processor.attach(Attachment(lambda: self.ids, None, self.known, lambda: self.unfinished))
        rows = [
            torch.randn(TINY_VOCAB, generator=torch.Generator().manual_seed(zlib.crc32(f"{name}{seed}".encode())))
            for name in self.ids
        ]
        return self.processor.apply(torch.stack(rows))


@pytest.fixture
def processor(tiny_base: str, tiny_checkpoint: Path) -> ValueLogitsProcessor:
    config = GuideConfig(checkpoints=(str(tiny_checkpoint),), base_model=tiny_base, value_dtype="float32")
    model = SimpleNamespace(dtype=torch.float32, max_model_len=64, hf_text_config=SimpleNamespace(eos_token_id=[9]))
    vllm_config = SimpleNamespace(additional_config={"mavis": config.to_wire()}, model_config=model)
    return ValueLogitsProcessor(vllm_config, torch.device("cpu"), False)


def params(generation: str = "g", **guidance: object) -> SamplingParams:
    wire = Guidance(generation_id=generation, **guidance).to_wire()  # type: ignore[arg-type]
    return SamplingParams(temperature=1.0, extra_args={"mavis": wire})


GUIDED: dict[str, Any] = {"weights": {"warmth": 1.0, "brevity": -0.5}}


def test_the_interface_is_the_one_we_were_written_for() -> None:
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


def test_rows_that_move_swap_and_leave_keep_their_own_guidance(processor: ValueLogitsProcessor) -> None:
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


def test_a_request_that_leaves_and_comes_back_goes_on_as_if_it_had_stayed(processor: ValueLogitsProcessor) -> None:
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


def test_a_slot_taken_without_a_removal_belongs_to_the_newcomer(processor: ValueLogitsProcessor) -> None:
    batch = Batch(processor)
    batch.update(add=[(0, "first", params("first", **GUIDED), [3, 4], [])])
    batch.step()
    batch.update(add=[(0, "second", SamplingParams(), [5, 6], [])])
    before = batch.step()
    assert (before > float("-inf")).all(), "a plain request in a reused slot is not truncated to the candidates"


def test_plain_and_zero_weight_requests_are_not_scored(processor: ValueLogitsProcessor) -> None:
    batch = Batch(processor)
    batch.update(
        add=[
            (0, "plain", SamplingParams(), [3], []),
            (1, "zero", params("zero", weights={"warmth": 0.0}), [3], []),
            (2, "still", params("still", weights={"warmth": 1.0}, beta=0.0), [3], []),
        ]
    )
    processor.attach(Attachment(lambda: batch.ids))
    logits = torch.randn(3, TINY_VOCAB)
    assert torch.equal(processor.apply(logits.clone()), logits)
    assert processor.guide.guided_rows == 0


def test_children_of_one_request_have_their_own_traces(processor: ValueLogitsProcessor) -> None:
    batch = Batch(processor)
    shared, outputs = params("g", **GUIDED), [list[int](), list[int]()]
    batch.update(add=[(i, f"{i}_g-0a1b", shared, [3, 4], outputs[i]) for i in range(2)])
    tilted = batch.step()
    for i, output in enumerate(outputs):
        output.append(int(tilted[i].argmax()))
    traces = processor.guide.traces.read({"g": {}})["g"]
    assert traces.keys() == {"0:0", "0:1"}
    assert [traces[f"0:{i}"]["token_ids"] for i in range(2)] == outputs


def test_guided_requests_before_attach_are_an_error_that_says_what_to_call(processor: ValueLogitsProcessor) -> None:
    processor.update_state(BatchUpdate(1, removed=[], added=[(0, params(**GUIDED), [3], [])], moved=[]))
    with pytest.raises(RuntimeError, match="mavis_attach"):
        processor.apply(torch.randn(1, TINY_VOCAB))


def test_guidance_that_is_not_ours_is_refused_at_admission() -> None:
    forged = SamplingParams(extra_args={"mavis": {"generation_id": "x", "weights": {"warmth": 99}}})
    with pytest.raises(ValueError, match=r"vllm_xargs\.mavis is reserved"):
        ValueLogitsProcessor.validate_params(forged)
    ValueLogitsProcessor.validate_params(SamplingParams(extra_args={"mavis": Guidance("x")}))
    ValueLogitsProcessor.validate_params(SamplingParams())


def change(processor: ValueLogitsProcessor, choice: ChoiceName | None = None, **fields: Any) -> None:
    """Take over a change; what is no field of `Change` is an objective's weight."""
    strength = {name: fields.pop(name) for name in ("beta", "kl_budget") if name in fields}
    processor.changed.take([Change("g", weights=fields, choice=choice, **strength)])


def test_a_change_holds_from_the_next_step_as_if_the_request_had_begun_with_it(processor: ValueLogitsProcessor) -> None:
    batch, output = Batch(processor), list[int]()
    batch.update(add=[(0, "x", params(weights={"warmth": -1.0, "brevity": 0.25}, beta=0.5), [3, 4, 5], output)])
    expected = batch.step(3)
    batch.update(remove=[0])
    batch.update(add=[(0, "y", params(**GUIDED), [3, 4, 5], output)])
    batch.ids[0] = "x"  # the same logits
    before = batch.step(3)
    change(processor, warmth=-1.0, brevity=0.25, beta=0.5)
    after = batch.step(3)
    assert not torch.equal(before, after)
    assert torch.equal(after, expected)


def test_a_change_to_the_same_weights_changes_nothing_bit_for_bit(processor: ValueLogitsProcessor) -> None:
    batch = Batch(processor)
    batch.update(add=[(0, "x", params(**GUIDED), [3, 4, 5], [])])
    batch.step()  # reads the prompt; reading and having read may differ in a last bit
    before = batch.step()
    change(processor, warmth=1.0, brevity=-0.5, beta=None, kl_budget=None)
    assert torch.equal(batch.step(), before)


def test_a_change_outlives_removal_and_readding_with_the_original_parameters(processor: ValueLogitsProcessor) -> None:
    """A preemption must not bring the old weights back."""
    batch, output = Batch(processor), [7]
    add = (0, "x", params(**GUIDED), [3, 4, 5], output)
    batch.update(add=[add])
    batch.step()
    change(processor, warmth=-2.0)
    steered = batch.step(1)
    batch.update(remove=[0])
    change(processor, brevity=0.0)
    change(processor, brevity=-0.5)
    batch.update(add=[(0, "x", params(**GUIDED), [3, 4, 5], list(output))])
    assert torch.equal(batch.step(1), steered)
    processor.changed.drop(["g"])
    batch.update(remove=[0])
    batch.update(add=[add])
    assert not torch.equal(batch.step(1), steered), "the next generation of this id inherits nothing"


def test_a_change_that_comes_before_its_request_holds_from_its_first_token(processor: ValueLogitsProcessor) -> None:
    change(processor, warmth=-2.0)
    batch = Batch(processor)
    batch.update(add=[(0, "x", params(**GUIDED), [3, 4, 5], [])])
    batch.step()
    trace = processor.guide.traces.read({"g": {}})["g"]["0:0"]
    assert trace["settings"] == [[0, [-2.0, -0.5], 1.0, None]]


def test_one_choice_is_steered_and_the_other_is_not(processor: ValueLogitsProcessor) -> None:
    batch, shared = Batch(processor), params(**GUIDED)
    batch.update(add=[(i, f"{i}_g-0a1b", shared, [3, 4], []) for i in range(2)])
    before = batch.step()
    change(processor, ChoiceName(0, 1), warmth=-2.0)
    after = batch.step()
    assert torch.equal(after[0], before[0]) and not torch.equal(after[1], before[1])


def test_a_plain_request_can_be_steered_and_calmed_again(processor: ValueLogitsProcessor) -> None:
    batch, output = Batch(processor), list[int]()
    batch.update(add=[(0, "x", params(weights={"warmth": 0.0}), [3, 4, 5], output)])
    plain = batch.step()
    output += [7, 9]
    change(processor, warmth=1.0)
    assert not torch.equal(batch.step(), plain)
    output.append(11)
    change(processor, warmth=0.0)
    assert torch.equal(batch.step(), plain)
    output.append(13)
    trace = processor.guide.traces.read({"g": {}})["g"]["0:0"]
    assert trace["token_ids"] == [7, 9, 11, 13]
    assert trace["settings"] == [[2, [1.0, 0.0], 1.0, None], [3, [0.0, 0.0], 1.0, None]]
    assert trace["kl"][:2] == [0.0, 0.0] and trace["kl"][2] > 0 and trace["kl"][3] == 0.0


def test_the_worker_says_which_tokens_come_next_also_of_preempted_requests() -> None:
    def known(output: list[int], parameters: SamplingParams) -> SimpleNamespace:
        return SimpleNamespace(sampling_params=parameters, output_token_ids=output)

    second = SamplingParams(extra_args={"mavis": Guidance("g", prompt_index=1)})
    requests = {
        "0_g-aa": known([1, 2], params()),
        "1_g-aa": known([], params()),
        "g-bb": known([5], second),
        "other": known([1], params("h")),
        "plain": known([1], SamplingParams()),
    }
    assert next_tokens(requests, {"g", "gone"}, {}) == {"g": {"0:0": 2, "0:1": 0, "1:0": 1}}


def test_a_change_that_comes_while_a_step_computes_holds_from_the_token_after_it_and_is_told_so(
    processor: ValueLogitsProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Catches a thread that tells the token whose settings the step has read already, also of a plain neighbour."""
    batch = Batch(processor)
    outputs: list[list[int]] = [[], []]
    batch.update(
        add=[
            (0, "g-x", params("g", weights={"warmth": 1.0}), [3, 4], outputs[0]),
            (1, "plain-x", params("plain", trace="totals"), [3, 4], outputs[1]),
        ]
    )
    told: list[Any] = []
    step = processor.guide.step

    def computes(*args: Any) -> torch.Tensor:
        if len(outputs[0]) == 1:
            told.extend(processor.take([Change(name, {"warmth": -1.0})]) for name in ("g", "plain"))
        return step(*args)

    monkeypatch.setattr(processor.guide, "step", computes)
    for token in range(3):
        batch.step(token)
        for output in outputs:
            output.append(5)
    assert told == [{"g": {"0:0": 2}}, {"plain": {"0:0": 2}}]
    traces = processor.guide.traces.read({"g": {}, "plain": {}})
    settings = traces["g"]["0:0"]["settings"]
    assert [(first, weights[0]) for first, weights, *_ in settings] == [(0, 1.0), (2, -1.0)]
    assert [bool(each) for each in traces["plain"]["0:0"]["advantages"]] == [False, False, True]


@pytest.mark.parametrize(
    ("fields", "output"), [({"max_tokens": 2}, [3, 4]), ({"stop_token_ids": [9]}, [3, 9]), ({"max_tokens": 1}, [3])]
)
def test_a_choice_that_has_its_last_token_has_no_next_one(fields: dict[str, Any], output: list[int]) -> None:
    """The runner keeps it until its next step; a change would be promised for a token that never comes."""
    ended = SamplingParams(extra_args={"mavis": Guidance("g")}, **fields)
    requests = {"0_g-aa": SimpleNamespace(sampling_params=ended, output_token_ids=output)}
    assert next_tokens(requests, {"g"}, {}) == {}
    requests["0_g-aa"].output_token_ids = output[:-1]
    assert next_tokens(requests, {"g"}, {}) == {"g": {"0:0": len(output) - 1}}
    is_last = "max_tokens" in fields
    being_sampled = next_tokens(requests, {"g"}, {"0_g-aa": len(output) - 1})
    assert being_sampled == ({} if is_last else {"g": {"0:0": len(output)}})


def test_a_choice_that_has_its_end_of_sequence_has_no_next_token() -> None:
    def after(ignore_eos: bool) -> dict[str, dict[str, int]]:
        sampling = SamplingParams(extra_args={"mavis": Guidance("g")}, ignore_eos=ignore_eos)
        sampling.update_from_generation_config({}, eos_token_id=7)
        return next_tokens({"g-aa": SimpleNamespace(sampling_params=sampling, output_token_ids=[3, 7])}, {"g"}, {})

    assert (after(ignore_eos=False), after(ignore_eos=True)) == ({}, {"g": {"0:0": 2}})


def test_a_prompt_is_read_with_the_base_and_scored_at_its_end(processor: ValueLogitsProcessor) -> None:
    """Scored, tilted and noted before its end it would cost a forward whose sample vLLM throws away."""
    batch, prompt = Batch(processor), list(range(1, 51))
    batch.update(add=[(0, "a", params("g", **GUIDED, scoring="exact"), prompt, [])])
    cache = processor.guide.scorers["exact"][0].cache  # type: ignore[attr-defined]
    for read, stored in ((20, 16), (40, 32)):
        batch.unfinished = {0: read}
        untouched = batch.step()
        assert (untouched > float("-inf")).all() and processor.guide.guided_rows == 0
        assert cache.open("a", prompt).stored == stored
    batch.unfinished = {}
    assert (batch.step() == float("-inf")).any() and cache.open("a", prompt).stored == 50


def test_reading_ahead_that_fails_ends_nothing(
    processor: ValueLogitsProcessor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    batch = Batch(processor)
    batch.update(add=[(0, "a", params("g", **GUIDED), list(range(1, 41)), [])])
    batch.unfinished = {0: 32}

    def broken(prefixes: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(processor.guide.scorers["exact"][0], "read", broken)
    batch.step()
    assert "could not read 1 prompts ahead" in caplog.text


def test_a_schedule_follows_the_tokens_and_a_change_is_made_over_it(processor: ValueLogitsProcessor) -> None:
    """By the step that samples token 2 its entry holds; what a person changes, the schedule says no more of."""
    schedule = (
        ScheduledChange(2, {"objective_weights": {"warmth": -1.0}}),
        ScheduledChange(4, {"objective_weights": {"warmth": 0.5, "brevity": 0.5}}),
    )
    batch, output = Batch(processor), []  # type: ignore[var-annotated]
    batch.update(add=[(0, "r", params(weights={"warmth": 1.0}, schedule=schedule), [3, 4], output)])
    for token in range(6):
        batch.step(token)
        output.append(5)
        if token == 2:
            processor.changed.take([Change("g", {"brevity": 2.0})])
    (trace,) = processor.guide.traces.read({"g": {}})["g"].values()
    assert [(at, weights) for at, weights, *_ in trace["settings"]] == [
        (0, [1.0, 0.0]), (2, [-1.0, 0.0]), (3, [-1.0, 2.0]), (4, [0.5, 2.0]),
    ]  # fmt: skip
