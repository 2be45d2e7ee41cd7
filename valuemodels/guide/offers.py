"""What a worker serves: guides, each for one offer of objectives, the latest for requests that name none.

The operator may have other checkpoints loaded while texts are written. Those that are under way keep the guide that
they began with; it goes when nothing of theirs is left. Files are read by a thread beside the engine's steps, and what
may not run beside them is done by who asks how far it is. No vLLM.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from valuemodels.contract.errors import MavisError, first_line
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.between_steps import BetweenSteps, HaveDone, at_once
from valuemodels.guide.value_guide import ValueGuide

logger = logging.getLogger("vllm.mavis")

FIRST_OFFER = 0


class Offers:
    """Guides by the numbers of their offers, which rise."""

    def __init__(self, load: Callable[[GuideConfig, HaveDone], ValueGuide], first: GuideConfig) -> None:
        """
        Args:
            load: makes a guide, which takes its time, and has done by another what may not run beside a step.
            first: is served from the start.
        """
        self._load = load
        self._between_steps = BetweenSteps()
        self._guides = {FIRST_OFFER: load(first, at_once)}
        self._loading: dict[int, threading.Thread] = {}
        self._failed: dict[int, str] = {}

    def __iter__(self) -> Iterator[ValueGuide]:
        return iter(list(self._guides.values()))

    @property
    def latest(self) -> ValueGuide:
        """Of the highest number."""
        return self._guides[max(self._guides)]

    def of(self, number: int) -> ValueGuide | None:
        """The guide of an offer; None where it is not there, or not yet."""
        return self._guides.get(number)

    def begin(self, number: int, config: GuideConfig) -> None:
        """Load another guide beside the steps of the engine. Nothing where that has begun."""
        if number in self._guides or number in self._loading:
            return
        self._failed.pop(number, None)
        thread = threading.Thread(target=self._run, args=(number, config), name=f"mavis offer {number}", daemon=True)
        self._loading[number] = thread
        thread.start()

    def advance(self, number: int) -> dict[str, Any]:
        """Do what loading waits for, and say how far an offer is: `state`. For the engine's thread, between steps."""
        self._between_steps.catch_up()
        return self.state(number)

    def state(self, number: int) -> dict[str, Any]:
        """`state`: ready, loading, failed or unknown; with `objectives` of what is ready, the `reason` of a failure."""
        if (guide := self._guides.get(number)) is not None:
            return {"state": "ready", "objectives": list(guide.policy.objectives)}
        if number in self._failed:
            return {"state": "failed", "reason": self._failed[number]}
        return {"state": "loading" if number in self._loading else "unknown"}

    def end(self, number: int) -> None:
        """Let go of an offer; the last one stays."""
        self._failed.pop(number, None)
        if len(self._guides) > 1:
            self._guides.pop(number, None)

    def read(self, wanted: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, Any]]:
        """Traces of generations, whichever guide has them; see `TraceStore.read`."""
        found: dict[str, dict[str, Any]] = {}
        for guide in self:
            found |= guide.traces.read(wanted)
        return found

    def stats(self) -> dict[str, int]:
        """The guides' counters and sizes, added up."""
        found: dict[str, int] = {}
        for guide in self:
            for name, number in guide.stats().items():
                found[name] = found.get(name, 0) + number
        return found

    def _run(self, number: int, config: GuideConfig) -> None:
        try:
            self._guides[number] = self._load(config, self._between_steps.have_done)
        except MavisError as error:
            self._failed[number] = str(error)
        except Exception as error:  # too little memory, a folder that went away: the engine goes on with what it has
            logger.exception("offer %d could not be loaded", number)
            self._failed[number] = first_line(error)
        finally:
            self._loading.pop(number, None)
