"""Other checkpoints in place of those that are served: checked, loaded everywhere, and nothing is taken from texts."""

import asyncio
import gc
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.audit import Audit
from server.errors import CheckpointsError, FieldError, LoadingError
from server.generations import hot_checkpoints
from server.generations.generation import Generation
from server.generations.hot_checkpoints import HotCheckpoints
from server.requests.catalogue import Catalogue
from tests.server.kit import OWNER, value_config
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import ValueConfig


class Engine:
    """Two ranks that need a while to load, and forget nothing that they are asked."""

    errored = False

    def __init__(self) -> None:
        self.calls: list[tuple[str, int]] = []
        self.left = [1, 2]
        self.fails_on: int | None = None

    async def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> Any:
        self.calls.append((method, args[0]))
        if method == "mavis_unload":
            return [{"state": "unknown"}] * 2
        self.left = [max(left - 1, 0) for left in self.left]
        return [self._state(rank) for rank in range(2)]

    def _state(self, rank: int) -> dict[str, Any]:
        if self.left[rank]:
            return {"state": "loading"}
        return {"state": "failed", "reason": "too little memory"} if self.fails_on == rank else {"state": "ready"}


class Service:
    """What it changes of a `GenerationService`."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue


def save(root: Path, name: str, *objectives: str) -> None:
    (root / name).mkdir()
    (root / name / "value_config.json").write_text(value_config(*objectives, checkpoint=name).model_dump_json())


def catalogue_of(config: GuideConfig, checkpoints: Sequence[ValueConfig], offer: int) -> Catalogue:
    return Catalogue(config, checkpoints, offer=offer, may_be_replaced=True)


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    async def fits(config: GuideConfig) -> str | None:
        return "its trunk is not this base's" if any("unfit" in folder for folder in config.checkpoints) else None

    monkeypatch.setattr(hot_checkpoints, "complaint_about", fits)
    monkeypatch.setattr(hot_checkpoints, "POLL_S", 0.001)
    (tmp_path / "root").mkdir()
    save(tmp_path, "start", "warmth")
    for name, objectives in {"new": ("brevity", "humour"), "unfit": ("a",), "clash": ("brevity",)}.items():
        save(tmp_path / "root", name, *objectives)
    return tmp_path / "root"


@pytest.fixture
def served(root: Path) -> tuple[HotCheckpoints, Service, Engine]:
    config = GuideConfig(checkpoints=(str(root.parent / "start"),), base_model="base")
    service: Any = Service(catalogue_of(config, [value_config("warmth", checkpoint="start")], 0))
    engine = Engine()
    return HotCheckpoints(service, engine, config, root, catalogue_of, Audit()), service, engine


Served = tuple[HotCheckpoints, Service, Engine]


async def test_all_ranks_have_them_before_a_request_may_name_them(served: Served) -> None:
    hot, service, engine = served
    listing = await hot.replace(["new"], "-")
    assert [each["objectives"] for each in listing["data"]] == [["brevity", "humour"]]
    assert listing["available"] == ["clash", "new", "start", "unfit"]
    assert engine.calls[:2] == [("mavis_load", 1), ("mavis_offer", 1)], "the second rank needed longer"
    assert list(service.catalogue.policy.objectives) == ["brevity", "humour"]
    asked = service.catalogue.check({"objective_weights": {"humour": 1.0}}, "g")
    assert asked.guidance.offer == 1 and asked.must_travel
    await hot.replace(["start", "new"], "-")
    assert list(service.catalogue.policy.objectives) == ["warmth", "brevity", "humour"]
    assert service.catalogue.offer == 2


async def test_a_text_keeps_what_it_began_with_and_that_goes_with_the_last_of_them(served: Served) -> None:
    """Catches workers that keep every guide they ever had, and guides that go under a running text."""
    hot, service, engine = served
    running: Any = Generation(service.catalogue.check({"objective_weights": {"warmth": 1.0}}, "g"), 1, OWNER)
    await hot.replace(["new"], "-")
    gc.collect()
    await asyncio.sleep(0.02)
    assert running.catalogue.policy.objectives == running.block.objectives == ("warmth",)
    assert ("mavis_unload", 0) not in engine.calls
    del running
    gc.collect()
    await asyncio.sleep(0.02)
    assert ("mavis_unload", 0) in engine.calls


async def test_defaults_travel_with_requests_that_say_nothing(served: Served, root: Path) -> None:
    """Catches a request that is preempted under one offer and goes on under the next one's defaults."""
    config = GuideConfig(checkpoints=(), base_model="base", default_weights={"warmth": 1.0})
    checkpoints = [value_config("warmth")]
    assert catalogue_of(config, checkpoints, 1).silent(None, "g").must_travel
    assert not Catalogue(config, checkpoints).silent(None, "g").must_travel


@pytest.mark.parametrize(
    "names", [None, "new", [], ["new", "new"], [3], ["missing"], ["../start"], ["/etc"], ["."], ["new\0"]]
)
async def test_names_of_nothing_that_may_be_loaded_are_refused(served: Served, names: Any) -> None:
    hot, service, engine = served
    with pytest.raises(FieldError, match="checkpoints"):
        await hot.replace(names, "-")
    assert engine.calls == [] and service.catalogue.offer == 0


@pytest.mark.parametrize(
    ("names", "reason"),
    [(["unfit"], "its trunk is not this base's"), (["new", "clash"], "brevity")],
    ids=["base", "objectives"],
)
async def test_what_does_not_fit_is_refused_before_the_workers_hear_of_it(
    served: Served, names: list[str], reason: str
) -> None:
    hot, service, engine = served
    with pytest.raises(CheckpointsError, match=reason):
        await hot.replace(names, "-")
    assert engine.calls == [] and service.catalogue.offer == 0


async def test_a_worker_that_cannot_load_leaves_all_as_it_was(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    hot, service, engine = served
    engine.fails_on = 1
    with caplog.at_level(logging.INFO, "mavis.audit"), pytest.raises(CheckpointsError, match="too little memory"):
        await hot.replace(["new"], "10.0.0.1:5")
    assert engine.calls[-1] == ("mavis_unload", 1) and service.catalogue.offer == 0
    assert "10.0.0.1:5" in caplog.text and "CheckpointsError" in caplog.text
    engine.fails_on = None
    await hot.replace(["new"], "-")
    assert service.catalogue.offer == 2


async def test_one_at_a_time(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    hot, _, _ = served
    first = asyncio.ensure_future(hot.replace(["new"], "-"))
    await asyncio.sleep(0)
    with caplog.at_level(logging.INFO, "mavis.audit"), pytest.raises(LoadingError):
        await hot.replace(["start"], "-")
    assert "LoadingError" in caplog.text
    await first
