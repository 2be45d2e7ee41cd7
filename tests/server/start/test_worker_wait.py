"""How the engine's loop waits for its worker, on vLLM's own shared memory."""

import time
from importlib.metadata import entry_points

import pytest
from vllm.distributed.device_communicators import shm_broadcast
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.platforms import current_platform

from server.start.worker_wait import LOOK_EVERY_S, sleep_between_looks

LOOKS = 20


@pytest.fixture
def reader() -> SpinCondition:
    """What a process waits with that has just read something, without the sockets of a longer wait: vLLM's spins."""
    condition = object.__new__(SpinCondition)
    condition.is_reader, condition.busy_loop_s = True, 60.0
    condition.record_read()
    return condition


@pytest.fixture(autouse=True)
def vllms_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replaced comes back."""
    monkeypatch.setattr(shm_broadcast, "sched_yield", shm_broadcast.sched_yield)


def slept(reader: SpinCondition, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    for _ in range(LOOKS):
        reader.wait(timeout_ms=1)
    return naps


def test_vllm_finds_it_in_the_environment() -> None:
    (plugin,) = (entry for entry in entry_points(group="vllm.general_plugins") if entry.name == "mavis")
    assert plugin.load() is sleep_between_looks


@pytest.mark.parametrize("named", ["mavis", "another,mavis"])
def test_on_a_cpu_our_servers_sleep_between_looks(
    reader: SpinCondition, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv("VLLM_PLUGINS", named)
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: True)
    sleep_between_looks()
    assert slept(reader, monkeypatch) == [LOOK_EVERY_S] * LOOKS


@pytest.mark.parametrize(("named", "is_cpu"), [("another", True), ("", True), (None, True), ("mavis", False)])
def test_others_servers_and_other_devices_are_left_alone(
    reader: SpinCondition, monkeypatch: pytest.MonkeyPatch, named: str | None, is_cpu: bool
) -> None:
    if named is None:
        monkeypatch.delenv("VLLM_PLUGINS", raising=False)
    else:
        monkeypatch.setenv("VLLM_PLUGINS", named)
    monkeypatch.setattr(type(current_platform), "is_cpu", lambda self: is_cpu)
    sleep_between_looks()
    assert slept(reader, monkeypatch) == []
