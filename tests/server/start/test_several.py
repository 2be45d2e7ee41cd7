"""Several HTTP processes: what is refused, and what ends them. Real processes that only wait; vLLM's are tested e2e."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from server.errors import StartupError
from server.requests.keys import ApiKeys
from server.start.server_options import HttpProcess, ServerOptions
from server.start.settings import read_settings
from server.start.several import _refuse_unsupported, _watched
from server.start.stopping import Stop

FORK = multiprocessing.get_context("fork")


@pytest.fixture
def restored() -> Iterator[None]:
    """The handlers of signals, which `_watched` takes for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def waiting(name: str, status: int = 0) -> BaseProcess:
    """A process that ends with this status once it is told to."""

    def wait() -> None:
        signal.signal(signal.SIGTERM, lambda *_: os._exit(status))
        time.sleep(60)

    process = FORK.Process(target=wait, name=name)
    process.start()
    return process


def soon(action: object, *arguments: object) -> None:
    threading.Timer(0.3, action, arguments).start()  # type: ignore[arg-type]


@pytest.mark.usefixtures("restored")
def test_a_signal_is_handed_on_and_all_are_waited_for() -> None:
    servers, engine = [waiting("ApiServer_0"), waiting("ApiServer_1")], waiting("EngineCore")
    stop = Stop()
    soon(os.kill, os.getpid(), signal.SIGTERM)
    assert _watched(servers, [engine], stop) == 0
    assert stop.is_requested and [each.exitcode for each in servers] == [0, 0]
    assert engine.is_alive(), "it ends after them"
    engine.kill()


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("victim", "status"), [("ApiServer_1", 3), ("EngineCore", 3)])
def test_one_that_dies_ends_the_watch(victim: str, status: int, capsys: pytest.CaptureFixture[str]) -> None:
    everyone = [waiting(name, 3) for name in ("ApiServer_0", "ApiServer_1", "EngineCore")]
    found = next(each for each in everyone if each.name == victim)
    soon(found.terminate)
    assert _watched(everyone[:2], everyone[2:], Stop()) == status
    assert f"{victim} has died" in capsys.readouterr().err
    for each in everyone:
        each.kill()


@pytest.mark.parametrize(
    "variables",
    [
        {"MAVIS_ADMIN_KEY": "a-key-of-the-operator", "MAVIS_VALUES_ROOT": "/"},
        {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"},
    ],
)
def test_what_would_reach_one_process_alone_is_refused(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = ServerOptions(read_settings(os.environ), ApiKeys(), lambda *_: None)
    with pytest.raises(StartupError, match=next(iter(variables))):
        _refuse_unsupported(options, "mp")


def test_engines_that_nobody_watches_are_refused() -> None:
    options = ServerOptions(read_settings(os.environ), ApiKeys(), lambda *_: None)
    with pytest.raises(StartupError, match="--data-parallel-backend ray"):
        _refuse_unsupported(options, "ray")
    _refuse_unsupported(options, "mp")


def test_each_process_knows_the_others() -> None:
    sockets = tuple(Path(f"{index}.sock") for index in range(3))
    assert HttpProcess(1, 3, sockets).others == (sockets[0], sockets[2])
    assert HttpProcess().others == ()
