"""Methods added to vLLM's workers (`worker_extension_cls`), called through `collective_rpc` between two steps."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from valuemodels.vllm_v1 import ValueLogitsProcessor

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class ValueWorkerExtension:
    """Names start with `mavis_`, so that they cannot clash with vLLM's own."""

    model_runner: "GPUModelRunner"

    def mavis_attach(self) -> dict[str, Any] | None:
        """Connect the guide to the runner's request ids. Must be called once before the first guided request.

        Returns:
            What this worker serves, or None on ranks that do not sample.
        """
        processor = self._mavis_processor()
        if processor is None:
            return None
        runner = self.model_runner
        processor.attach(lambda: runner.input_batch.req_ids)
        guide = processor.guide
        return {
            "objectives": list(guide.policy.objectives),
            "checkpoints": [scorer.checkpoint_id for scorer in guide.scorers],
            "device": str(guide.device),
        }

    def mavis_traces(self, read: Mapping[str, Mapping[str, int]], drop: Sequence[str]) -> dict[str, Any] | None:
        """Read traces, then forget the generations in `drop`.

        Args:
            read: generation id -> choice -> first token wanted; no choices = all of them, from token 0.

        Returns:
            {"traces": generation id -> choice -> columns (see `SequenceTrace.read`), "stats": counters}
        """
        processor = self._mavis_processor()
        if processor is None:
            return None
        traces = processor.guide.traces.read(read)
        processor.guide.traces.drop(drop)
        return {"traces": traces, "stats": processor.guide.stats()}

    def mavis_stats(self) -> dict[str, int] | None:
        """Counters since the start and the cache's present size."""
        processor = self._mavis_processor()
        return None if processor is None else processor.guide.stats()

    def _mavis_processor(self) -> ValueLogitsProcessor | None:
        processors = self.model_runner.input_batch.logitsprocs.all
        found = [p for p in processors if isinstance(p, ValueLogitsProcessor)]
        return found[0] if found else None
