"""Methods added to vLLM's workers (`worker_extension_cls`), called through `collective_rpc` between two steps."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from valuemodels.adapters.change_socket import ChangeSocket, change_socket
from valuemodels.adapters.hidden_states import HiddenStates
from valuemodels.adapters.processor import Attachment, ValueProcessor
from valuemodels.contract.changes import Change
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.offers import Offers
from valuemodels.guide.recorder import PositionRecorder

logger = logging.getLogger("vllm.mavis")

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class ValueWorkerExtension:
    """Names start with `mavis_`, so that they cannot clash with vLLM's own."""

    model_runner: "GPUModelRunner"
    vllm_config: "VllmConfig"
    _mavis_socket: ChangeSocket | None = None

    def mavis_attach(self) -> dict[str, Any] | None:
        """Connect the guide to the runner's request ids. Must be called before the first guided request; each HTTP
        process does.

        Returns:
            What this worker serves, or None on ranks that do not sample.

        Raises:
            ValueError: so many drafts may come in a step that vLLM would hand them on in parts.
        """
        processor = self._mavis_processor()
        if processor is None:
            return None
        if not processor.is_attached:
            self._mavis_connect(processor)
        policy = processor.guide.policy
        return {
            "objectives": list(policy.objectives),
            "scorings": list(policy.scorings),
            "change_socket": None if self._mavis_socket is None else self._mavis_socket.address,
        }

    def _mavis_connect(self, processor: ValueProcessor) -> None:
        runner, guide = self.model_runner, processor.guide
        reads_hidden = {"fast", "hybrid"} & set(guide.policy.scorings)
        if reads_hidden:
            _check_drafts(self.vllm_config)
        # Models without the seam can still be guided by exact scoring.
        hidden = HiddenStates(runner.get_model()) if reads_hidden else None
        # Several ranks that sample the same rows must take a change over at the same step: theirs come by exchange.
        if self._mavis_socket is None and self.vllm_config.parallel_config.tensor_parallel_size == 1:
            self._mavis_socket = change_socket(lambda change: _taken(processor, change), processor.lock)
            if self._mavis_socket is not None and processor.answers_at_any_time:
                self._mavis_socket.listen()
        processor.attach(_attachment(runner, hidden, self._mavis_take_changes))

    def _mavis_take_changes(self) -> None:
        """Take over what has come by the socket."""
        if self._mavis_socket is not None:
            self._mavis_socket.take()

    def mavis_record(self, folder: str | None) -> None:
        """Write every position that is scored from now on into a folder; None: finish and stop."""
        if (processor := self._mavis_processor()) is None:
            return
        processor.hidden = processor.hidden or HiddenStates(self.model_runner.get_model())
        if processor.guide.recorder is not None:
            processor.guide.recorder.flush()
        processor.guide.recorder = None if folder is None else PositionRecorder(Path(folder))

    def mavis_exchange(
        self,
        changes: Sequence[Mapping[str, Any]],
        read: Mapping[str, Mapping[str, Sequence[Any]]],
        drop: Sequence[str],
    ) -> dict[str, Any] | None:
        """Take over changes to running generations, then read traces, then forget generations.

        A change holds from the next sampled token on; a generation that this worker has not seen yet takes it up when
        its requests arrive.

        Args:
            changes: `Change.to_wire` of each, in order.
            read: generation id -> choice -> a `TokenRange`; no choices = everything of all of them.
            drop: generations whose traces and changes are forgotten.

        Returns:
            {"traces": generation id -> choice -> columns (see `SequenceTrace.read`), "failed": ids of generations whose
            traces could not be read,
            "next_tokens": changed generation's id -> choice -> index of the next token to be sampled, for what this
            worker holds, "stats": counters}
        """
        processor = self._mavis_processor()
        if processor is None:
            return None
        self._mavis_take_changes()  # they were sent before
        next_of = processor.take([Change.from_wire(change) for change in changes])
        traces, failed = self._mavis_read(processor.offers, read)
        processor.forget(drop)
        return {"traces": traces, "failed": failed, "next_tokens": next_of, "stats": processor.stats()}

    def mavis_load(self, offer: int, config: Mapping[str, Any]) -> dict[str, Any] | None:
        """Begin to load another offer of objectives, beside the steps of the engine; see `Offers.state`.

        Args:
            config: `GuideConfig.to_wire`.
        """
        if (processor := self._mavis_processor()) is None:
            return None
        processor.offers.begin(offer, GuideConfig.from_wire(config))
        return processor.offers.state(offer)

    def mavis_offer(self, offer: int) -> dict[str, Any] | None:
        """How far the loading of an offer is, which goes on by being asked; see `Offers.advance`."""
        processor = self._mavis_processor()
        return None if processor is None else processor.offers.advance(offer)

    def mavis_unload(self, offer: int) -> dict[str, Any] | None:
        """Let go of an offer that no request is about any more."""
        if (processor := self._mavis_processor()) is None:
            return None
        processor.offers.end(offer)
        return processor.offers.state(offer)

    @staticmethod
    def _mavis_read(
        offers: Offers, read: Mapping[str, Mapping[str, Sequence[Any]]]
    ) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """One generation after another, so that one that cannot be read costs only its own answer."""
        traces: dict[str, dict[str, Any]] = {}
        failed = []
        for generation_id, ranges in read.items():
            try:
                traces |= offers.read({generation_id: ranges})
            except Exception:  # whatever it is, the others' traces and all drops must not suffer
                logger.exception("the trace of a generation could not be read")
                failed.append(generation_id)
        return traces, failed

    def mavis_stats(self) -> dict[str, int] | None:
        """Counters since the start and the cache's present size."""
        processor = self._mavis_processor()
        return None if processor is None else processor.stats()

    def _mavis_processor(self) -> ValueProcessor | None:
        runner: Any = self.model_runner
        if _is_v2(runner):  # its sampler is None on pipeline ranks that do not sample
            processors = () if runner.sampler is None else runner.sampler.logits_processors
        else:
            processors = runner.input_batch.logitsprocs.all
        return next((each for each in processors if isinstance(each, ValueProcessor)), None)


def _taken(processor: ValueProcessor, change: Change) -> dict[str, int]:
    return processor.take([change]).get(change.generation_id, {})


def _is_v2(runner: Any) -> bool:
    return hasattr(runner, "req_states")


def _check_drafts(config: "VllmConfig") -> None:
    """The base's hidden states come for all rows of a step together: so must its logits.

    Raises:
        ValueError: naming the flags, and what they may be.
    """
    if config.speculative_config is None:
        return
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler import get_max_chunk_logits

    most = get_max_chunk_logits(config.model_config.get_vocab_size())
    rows = 1 + config.speculative_config.num_speculative_tokens
    if (seqs := config.scheduler_config.max_num_seqs) * rows > most:
        raise ValueError(
            f"--max-num-seqs {seqs} with {rows - 1} drafts each is more than vLLM verifies at once with this "
            f"vocabulary; allowed with fast and hybrid scoring is at most {most // rows}"
        )


def _attachment(runner: Any, hidden: HiddenStates | None, take_changes: Callable[[], None]) -> Attachment:
    if _is_v2(runner):
        return Attachment(lambda: runner.req_states.index_to_req_id, hidden, take_changes=take_changes)
    return Attachment(
        lambda: runner.input_batch.req_ids, hidden, lambda: runner.requests, lambda: _unfinished(runner), take_changes
    )


def _unfinished(runner: "GPUModelRunner") -> dict[int, int]:
    """Rows of this step whose samples vLLM throws away -> how many tokens the base has read of them. On the host."""
    thrown_away = runner.discard_request_mask.np[: runner.input_batch.num_reqs]
    if not thrown_away.any():
        return {}
    lengths = runner.optimistic_seq_lens_cpu.numpy()
    return {int(row): int(lengths[row]) for row in thrown_away.nonzero()[0]}
