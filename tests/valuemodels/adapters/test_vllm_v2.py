"""The V2 adapter against vLLM's own interface, driven by scripted steps on a tiny model.

What the real runner does with it is in tests/invariants, which run on V2 as well.
"""

import inspect
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import LogitsProcessor as V1Interface
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor

from tests.conftest import TINY_VOCAB
from tests.valuemodels.waits import counted_waits
from valuemodels.adapters import vllm_v1
from valuemodels.adapters.either_runner import ValueLogitsProcessor as EitherRunner
from valuemodels.adapters.processor import Attachment
from valuemodels.adapters.vllm_v2 import ValueLogitsProcessor
from valuemodels.adapters.worker import _check_drafts
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName, Guidance, ScheduledChange
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.row_settings import SettingsOfRows
from valuemodels.guide.step_record import SETTLE_STEPS

SLOTS, LONGEST = 4, 96
GUIDED: dict[str, Any] = {"weights": {"warmth": 1.0, "brevity": -0.5}, "candidates": TINY_VOCAB}


def params(generation: str = "g", **guidance: Any) -> SamplingParams:
    wire = Guidance(generation_id=generation, **guidance).to_wire()
    return SamplingParams(temperature=1.0, max_tokens=8, extra_args={"mavis": wire})


class Runner:
    """V2's state of requests in miniature: slots, tokens by slot, and a step over some of them."""

    def __init__(self) -> None:
        self.all_token_ids = SimpleNamespace(gpu=torch.zeros(SLOTS, LONGEST, dtype=torch.int32))
        self.total_len = SimpleNamespace(gpu=torch.zeros(SLOTS, dtype=torch.int32))
        self.prompt_len, self.prefill_len = (SimpleNamespace(np=np.zeros(SLOTS, dtype=np.int32)) for _ in range(2))
        self.device = torch.device("cpu")
        self.max_num_reqs = SLOTS
        self.ids: dict[int, str] = {}

    def add(
        self, processor: Any, slot: int, name: str, asked: SamplingParams, prompt: list[int], output: Any = ()
    ) -> bool:
        """As the runner does: the tokens are there only after the processor has been told."""
        self.ids = {at: held for at, held in self.ids.items() if held != name} | {slot: name}
        tokens = [*prompt, *output]
        self.prompt_len.np[slot], self.prefill_len.np[slot] = len(prompt), len(tokens)
        follows: bool = processor.add_request(slot, asked)
        self.all_token_ids.gpu[slot, : len(tokens)] = torch.tensor(tokens)
        self.total_len.gpu[slot] = len(tokens)
        return follows

    def sampled(self, slot: int, *tokens: int) -> None:
        for token in tokens:
            self.all_token_ids.gpu[slot, self.total_len.gpu[slot]] = token
            self.total_len.gpu[slot] += 1

    def step(self, processor: Any, *slots: int, drafts: tuple[int, ...] = (), read: int | None = None) -> torch.Tensor:
        """Rows of these slots, each with the same drafts; `read`: how far a prompt has been, if not to its end."""
        rows = [(slot, place) for slot in slots for place in range(len(drafts) + 1)]
        last = {slot: (int(self.total_len.gpu[slot]) if read is None else read) - 1 for slot in slots}
        ctx = LogitsContext(
            expanded_idx_mapping=torch.tensor([slot for slot, _ in rows]),
            idx_mapping=torch.tensor(slots),
            idx_mapping_np=np.array(slots),
            expanded_local_pos=torch.tensor([place for _, place in rows]),
            input_ids=torch.tensor([[0, *drafts][place] for _, place in rows]),
            pos=torch.tensor([last[slot] + place for slot, place in rows]),
            seq_lens_upper_bound_np=np.array([last[slot] + 1 for slot in slots]),
        )
        logits = torch.randn(len(rows), TINY_VOCAB, generator=torch.Generator().manual_seed(len(rows)))
        self.before = logits.clone()
        found: torch.Tensor = processor.apply(logits, ctx)
        return found


@pytest.fixture
def config(tiny_base: str, tiny_checkpoint: Path) -> Any:
    guide = GuideConfig(
        checkpoints=(str(tiny_checkpoint),), base_model=tiny_base, value_dtype="float32", max_candidates=64
    )
    model = SimpleNamespace(dtype=torch.float32, max_model_len=64, hf_text_config=SimpleNamespace(eos_token_id=[9]))
    return SimpleNamespace(
        additional_config={"mavis": guide.to_wire()},
        model_config=model,
        speculative_config=None,
    )


@pytest.fixture
def runner() -> Runner:
    return Runner()


@pytest.fixture
def processor(config: Any, runner: Any) -> ValueLogitsProcessor:
    return attached(config, runner)


@pytest.fixture
def drafting(config: Any, runner: Any) -> ValueLogitsProcessor:
    """One of an engine that speculates."""
    config.speculative_config = SimpleNamespace(num_speculative_tokens=2)
    return attached(config, runner)


def attached(config: Any, runner: Any) -> ValueLogitsProcessor:
    processor = ValueLogitsProcessor(config, runner)
    processor.attach(Attachment(lambda: runner.ids))
    return processor


def trace_of(processor: ValueLogitsProcessor, generation: str = "g", told: Any = ()) -> Any:
    ranges = {"0:0": [0, told]} if told else {}
    return processor.guide.traces.read({generation: ranges})[generation]["0:0"]


def test_the_interface_is_the_one_we_were_written_for() -> None:
    """Fails loudly when vLLM moves a seam: names, arguments and order of V2's logits-processor interface."""
    assert list(inspect.signature(LogitsProcessor.__init__).parameters)[1:] == ["vllm_config", "req_states"]
    assert list(inspect.signature(LogitsProcessor.add_request).parameters)[1:] == ["req_idx", "sampling_params"]
    assert list(inspect.signature(LogitsProcessor.apply).parameters)[1:] == ["logits", "ctx"]


def test_one_class_path_serves_both_runners(config: Any, runner: Any) -> None:
    assert issubclass(EitherRunner, V1Interface) and issubclass(EitherRunner, LogitsProcessor)
    assert type(EitherRunner(config, runner)) is ValueLogitsProcessor
    assert type(EitherRunner(config, torch.device("cpu"), False)) is vllm_v1.ValueLogitsProcessor


def test_warm_up_requests_pass_before_the_extension_is_attached(config: Any, runner: Any) -> None:
    """vLLM's own, on a GPU; the operator's defaults must not stop the start. A guided one would go unguided."""
    processor = ValueLogitsProcessor(config, runner)
    assert not runner.add(processor, 0, "warm-up", SamplingParams(), [3])
    assert torch.equal(runner.step(processor, 0), runner.before)
    with pytest.raises(RuntimeError, match="mavis_attach"):
        runner.add(processor, 1, "g-1", params(**GUIDED), [3])


def test_rows_are_told_apart_by_their_slots(processor: ValueLogitsProcessor, runner: Runner) -> None:
    assert runner.add(processor, 3, "g-1", params("g", **GUIDED), [4, 5])
    assert not runner.add(processor, 1, "plain", SamplingParams(), [3])
    found = runner.step(processor, 1, 3)
    assert torch.equal(found[0], runner.before[0]) and not torch.equal(found[1], runner.before[1])


def test_a_recycled_slot_forgets_who_stood_there(processor: ValueLogitsProcessor, runner: Runner) -> None:
    runner.add(processor, 0, "g-1", params("g", **GUIDED), [4, 5])
    runner.step(processor, 0)
    runner.add(processor, 0, "plain", SamplingParams(), [6])
    assert torch.equal(runner.step(processor, 0), runner.before)
    runner.add(processor, 0, "h-1", params("h", **GUIDED), [7, 8, 9])
    runner.step(processor, 0)
    runner.sampled(0, 5)
    runner.step(processor, 0)
    assert trace_of(processor, "h")["token_ids"] == [5]


def test_a_request_that_was_preempted_goes_on_in_another_slot(processor: ValueLogitsProcessor, runner: Runner) -> None:
    """Its output comes back as something to be read; its trace must go on where it was."""
    runner.add(processor, 0, "g-1", params("g", **GUIDED), [4, 5])
    for token in (6, 7):
        runner.step(processor, 0)
        runner.sampled(0, token)
    runner.add(processor, 0, "plain", SamplingParams(), [3])
    assert processor.next_tokens({"g"}) == {"g": {"0:0": 2}}, "what was sampled last counts, though it was not seen"
    runner.add(processor, 2, "g-1", params("g", **GUIDED), [4, 5], [6, 7])
    runner.step(processor, 2, read=3)
    runner.step(processor, 2)
    runner.sampled(2, 8)
    runner.step(processor, 2)
    trace = trace_of(processor)
    assert trace["token_ids"] == [6, 7, 8] and all(trace["advantages"])


def test_the_next_token_is_the_one_about_to_be_sampled(processor: ValueLogitsProcessor, runner: Runner) -> None:
    asked = params("g", **GUIDED)
    runner.add(processor, 0, "0_g-1", asked, [4, 5])
    runner.add(processor, 1, "1_g-1", asked, [4, 5])
    assert processor.next_tokens({"g", "unknown"}) == {"g": {"0:0": 0, "0:1": 0}}
    runner.step(processor, 1)
    assert processor.next_tokens({"g"}) == {"g": {"0:0": 0, "0:1": 1}}, "also before it is sampled"
    for token in range(3, 11):
        runner.step(processor, 0)
        runner.sampled(0, token)
    assert processor.next_tokens({"g"}) == {"g": {"0:1": 1}}, "the first has got all that it asked for"
    processor.forget(["g"])
    assert processor.next_tokens({"g"}) == {}


def test_a_change_holds_for_a_plain_request_and_for_all_its_choices(
    processor: ValueLogitsProcessor, runner: Runner
) -> None:
    assert runner.add(processor, 0, "g-1", params("g", trace="totals"), [4, 5]), "it may be changed later"
    assert torch.equal(runner.step(processor, 0), runner.before)
    processor.changed.take([Change("g", {"warmth": 1.0})])
    assert not torch.equal(runner.step(processor, 0), runner.before)


def test_drafts_are_rows_after_other_prefixes(drafting: ValueLogitsProcessor, runner: Runner) -> None:
    """Each is valued after those before it; what is refused leaves nothing in the trace."""
    runner.add(drafting, 0, "g-1", params("g", **GUIDED), [4, 5])
    runner.step(drafting, 0)
    runner.sampled(0, 6)
    with_drafts = runner.step(drafting, 0, drafts=(7, 8))
    runner.sampled(0, 7, 9)  # the first was right, the second was not
    runner.step(drafting, 0)
    runner.sampled(0, 3)
    runner.step(drafting, 0)
    trace = trace_of(drafting, told=[6, 7, 9, 3])
    assert len(trace["kl"]) == 4 and all(trace["advantages"])
    assert with_drafts.shape[0] == 3


def test_a_schedule_holds_for_drafts_and_no_longer_than_they_do(drafting: ValueLogitsProcessor, runner: Runner) -> None:
    """A draft may reach a token of which the schedule says something else, and be refused."""
    schedule = (ScheduledChange(2, {"objective_weights": {"warmth": -1.0}}),)
    runner.add(drafting, 0, "g-1", params("g", weights={"warmth": 1.0}, schedule=schedule), [4, 5])
    runner.step(drafting, 0)
    runner.sampled(0, 6)
    runner.step(drafting, 0, drafts=(7, 8))
    runner.sampled(0, 9)
    runner.step(drafting, 0)
    runner.sampled(0, 3)
    settings = trace_of(drafting, told=[6, 9, 3])["settings"]
    assert [(first, weights[0]) for first, weights, *_ in settings] == [(0, 1.0), (2, -1.0)]


class Watched:
    """A processor whose steps are watched for what waits in them."""

    def __init__(self, processor: ValueLogitsProcessor) -> None:
        self._processor = processor
        self.waits: list[str] = []

    def apply(self, logits: torch.Tensor, ctx: LogitsContext) -> torch.Tensor:
        with counted_waits() as seen:
            found = self._processor.apply(logits, ctx)
        self.waits += seen
        return found


@pytest.fixture
def fast(config: Any, runner: Any, tiny_base: str, tiny_probed_checkpoint: Path) -> ValueLogitsProcessor:
    guide = GuideConfig(checkpoints=(str(tiny_probed_checkpoint),), base_model=tiny_base, scorings=("fast",))
    config.additional_config = {"mavis": guide.to_wire()}
    processor = ValueLogitsProcessor(config, runner)
    hidden: Any = SimpleNamespace(rows=lambda count: torch.zeros(count, 32))
    processor.attach(Attachment(lambda: runner.ids, hidden))
    return processor


def test_fast_scoring_waits_for_nothing(
    fast: ValueLogitsProcessor, runner: Runner, caplog: pytest.LogCaptureFixture
) -> None:
    """Requests that come, go on in chunks, change places and end; with traces, and more steps than are kept."""
    watched = Watched(fast)
    asked = {**GUIDED, "kl_budget": 0.5, "trace": "candidates"}
    runner.add(fast, 0, "g-1", params("g", **asked), [4, 5, 6])
    runner.step(watched, 0, read=2)
    runner.add(fast, 2, "h-1", params("h", **asked), [4, 5])
    sampled = [3 + token % 7 for token in range(LONGEST - 4)]
    for place, token in enumerate(sampled):
        runner.step(watched, *((0, 2) if place % 2 else (2, 0)))
        for slot in (0, 2):
            runner.sampled(slot, token)
    assert watched.waits == [] and fast.guide.guided_rows == 2 * (LONGEST - 4)
    assert caplog.records == [], "no row fell back"
    trace = trace_of(fast, told=sampled)
    assert len(trace["kl"]) == LONGEST - 4 and all(trace["advantages"])


def test_exact_scoring_waits_once_for_tokens_and_once_for_candidates(
    processor: ValueLogitsProcessor, runner: Runner
) -> None:
    watched = Watched(processor)
    for slot in (0, 2):
        runner.add(processor, slot, f"{slot}-1", params(str(slot), **GUIDED), [4, 5, 6])
    for _ in range(3):
        watched.waits.clear()
        runner.step(watched, 0, 2)
        assert len(watched.waits) == 2
        runner.sampled(0, 7)
        runner.sampled(2, 8)


def test_tokens_come_to_the_host_some_steps_later(fast: ValueLogitsProcessor, runner: Runner) -> None:
    """So that traces nobody has read do not wait on the device for ever."""
    runner.add(fast, 0, "g-1", params("g", weights={"warmth": 1.0}), [4, 5])
    steps = SETTLE_STEPS + 1
    for token in range(steps):
        runner.step(fast, 0)
        runner.sampled(0, token % 7 + 3)
    assert trace_of(fast)["token_ids"] == [token % 7 + 3 for token in range(SETTLE_STEPS - 1)]


def test_rows_of_two_offers_are_tilted_each_by_its_own(
    processor: ValueLogitsProcessor, runner: Runner, config: Any
) -> None:
    """Catches rows that a newer guide takes over, and traces that only the latest guide is asked for."""
    other = replace(GuideConfig.from_wire(config.additional_config["mavis"]), default_beta=2.0)
    processor.offers.begin(1, other)
    while processor.offers.advance(1)["state"] == "loading":
        time.sleep(0.005)
    runner.add(processor, 0, "g-1", params("g", **GUIDED), [4, 5])
    runner.add(processor, 1, "h-1", params("h", offer=1, **GUIDED), [4, 5])
    both = runner.step(processor, 0, 1)
    runner.add(processor, 1, "i-1", params("i", beta=2.0, **GUIDED), [4, 5])
    assert torch.equal(both, runner.step(processor, 0, 1))
    for slot in (0, 1):
        runner.sampled(slot, 7)
    assert processor.offers.read({"g": {}, "h": {}}).keys() == {"g", "h"}
    before = runner.step(processor, 0, 1)
    processor.offers.end(0)
    torch.testing.assert_close(runner.step(processor, 0, 1), before, msg="what has begun with an offer outlives it")


def test_rows_that_change_places_are_not_written_again(
    fast: ValueLogitsProcessor, runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """V2 orders a batch anew in every step; what a request asks for stays in its slot's line."""
    for slot, weight in ((0, 1.0), (2, -1.0)):
        runner.add(fast, slot, f"{slot}-1", params(str(slot), weights={"warmth": weight}), [4, 5])
    first = runner.step(fast, 0, 2)
    monkeypatch.setattr(SettingsOfRows, "_write", lambda *_: pytest.fail("written again"))
    swapped = runner.step(fast, 2, 0)
    assert not torch.equal(first, swapped)
    monkeypatch.undo()
    runner.add(fast, 3, "3-1", params("3", weights={"warmth": -1.0}), [4, 5])
    runner.add(fast, 1, "1-1", params("1", weights={"warmth": 1.0}), [4, 5])
    assert torch.equal(runner.step(fast, 3, 1), swapped)


def test_what_vllm_hands_on_in_parts_is_refused_at_the_start() -> None:
    def check(seqs: int) -> None:
        config: Any = SimpleNamespace(
            speculative_config=SimpleNamespace(num_speculative_tokens=7),
            scheduler_config=SimpleNamespace(max_num_seqs=seqs),
            model_config=SimpleNamespace(get_vocab_size=lambda: 152_064),
        )
        _check_drafts(config)

    check(220)
    with pytest.raises(ValueError, match=r"^--max-num-seqs 256 with 7 drafts .* at most 220$"):
        check(256)


def test_choices_are_named_by_the_engines_ids(processor: ValueLogitsProcessor, runner: Runner) -> None:
    runner.add(processor, 0, "1_g-1", params("g", **GUIDED), [4, 5])
    runner.step(processor, 0)
    assert list(processor.guide.traces.read({"g": {}})["g"]) == [str(ChoiceName(0, 1))]
