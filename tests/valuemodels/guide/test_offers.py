"""Guides that come and go in a worker while its engine steps."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.guide.between_steps import BetweenSteps, HaveDone
from valuemodels.guide.offers import Offers


def config(name: str) -> GuideConfig:
    return GuideConfig(checkpoints=(name,), base_model="base")


def guide(config: GuideConfig, have_done: HaveDone) -> Any:
    (name,) = config.checkpoints
    if name == "broken":
        raise CheckpointError("it has no head")
    if name == "large":
        raise MemoryError("cannot allocate 4 GiB\nand a traceback")
    return SimpleNamespace(
        name=name,
        prepared_by=have_done(threading.get_ident),
        policy=SimpleNamespace(objectives=(name,)),
        traces=SimpleNamespace(read=lambda wanted: {name: {"0:0": {"from": 0}}} if name in wanted else {}),
        stats=lambda: {"guided_rows": len(name), "cache_bytes": 1},
    )


def loaded(offers: Offers, number: int) -> dict[str, Any]:
    deadline = time.monotonic() + 10
    while (state := offers.advance(number))["state"] == "loading" and time.monotonic() < deadline:
        time.sleep(0.005)
    return state


def test_the_latest_is_for_requests_that_name_none_and_earlier_ones_stay() -> None:
    offers = Offers(guide, config("warmth"))
    offers.begin(3, config("brevity"))
    assert loaded(offers, 3) == {"state": "ready", "objectives": ["brevity"]}
    found: Any = [offers.latest, offers.of(0), offers.of(3), offers.of(7)]
    assert [each and each.name for each in found] == ["brevity", "warmth", "brevity", None]
    assert offers.read({"warmth": {}, "brevity": {}, "other": {}}).keys() == {"warmth", "brevity"}
    assert offers.stats() == {"guided_rows": len("warmth") + len("brevity"), "cache_bytes": 2}


@pytest.mark.parametrize(("name", "reason"), [("broken", "it has no head"), ("large", "cannot allocate 4 GiB")])
def test_one_that_cannot_be_loaded_says_why_and_changes_nothing(name: str, reason: str) -> None:
    offers = Offers(guide, config("warmth"))
    offers.begin(1, config(name))
    state = loaded(offers, 1)
    assert state["state"] == "failed" and reason in state["reason"] and "\n" not in state["reason"]
    offers.end(1)
    assert offers.state(1) == {"state": "unknown"}
    found: Any = offers.latest
    assert found.name == "warmth"


def test_what_has_ended_is_let_go_of_but_for_the_last() -> None:
    offers = Offers(guide, config("warmth"))
    offers.end(0)
    assert offers.state(0)["state"] == "ready", "something has to be served"
    offers.begin(1, config("brevity"))
    loaded(offers, 1)
    offers.end(0)
    assert offers.of(0) is None and [each.policy.objectives for each in offers] == [("brevity",)]


def test_what_may_not_run_beside_a_step_is_done_by_who_asks_how_far_it_is() -> None:
    """Would catch kernels of vLLM's in two threads at once, which write into each other's numbers."""
    offers = Offers(guide, config("warmth"))
    offers.begin(1, config("brevity"))
    time.sleep(0.05)
    assert offers.state(1) == {"state": "loading"}, "it waits for this thread"
    assert loaded(offers, 1)["state"] == "ready"
    found: Any = [offers.of(0), offers.of(1)]
    assert [each.prepared_by for each in found] == [threading.get_ident()] * 2


def test_what_fails_between_two_steps_fails_for_who_waits() -> None:
    def load(config: GuideConfig, have_done: HaveDone) -> Any:
        return have_done(lambda: guide(config, have_done=lambda work: work()))

    offers = Offers(load, config("warmth"))
    offers.begin(1, config("broken"))
    assert loaded(offers, 1) == {"state": "failed", "reason": "it has no head"}


def test_with_nothing_handed_over_nobody_waits() -> None:
    catching_up = threading.Thread(target=BetweenSteps().catch_up, daemon=True)
    catching_up.start()
    catching_up.join(10)
    assert not catching_up.is_alive()
