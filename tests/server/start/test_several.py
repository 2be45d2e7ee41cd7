"""Several HTTP processes: what is refused, and what ends them. Real processes that only wait; vLLM's are tested e2e."""

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from server.errors import StartupError
from server.requests.keys import ApiKeys
from server.start.server_options import HttpProcess, ServerOptions
from server.start.settings import read_settings
from server.start.several import _refuse_unsupported, _watched
from server.start.stopping import Stop


class Waiting:
    """A process that ends with a status once it is told to, as `multiprocessing` shows one."""

    def __init__(self, name: str, status: int = 0) -> None:
        waits = f"trap 'exit {status}' TERM; echo ready; while :; do sleep 0.05; done"
        self._process = subprocess.Popen(["sh", "-c", waits], stdout=subprocess.PIPE)
        assert self._process.stdout is not None and self._process.stdout.readline() == b"ready\n"
        self.name = name
        self.pid = self._process.pid
        self.sentinel = os.pidfd_open(self.pid)

    @property
    def exitcode(self) -> int | None:
        return self._process.poll()

    def terminate(self) -> None:
        self._process.terminate()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        os.close(self.sentinel)


@pytest.fixture
def everyone() -> Iterator[dict[str, Waiting]]:
    """Two HTTP processes and an engine."""
    found = {
        name: Waiting(name, status) for name, status in (("ApiServer_0", 0), ("ApiServer_1", 3), ("EngineCore", 4))
    }
    yield found
    for each in found.values():
        each.end()


@pytest.fixture
def restored() -> Iterator[None]:
    """The handlers of signals, which `_watched` takes for itself."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def soon(action: Callable[..., object], *arguments: object) -> None:
    threading.Timer(0.3, action, arguments).start()


@pytest.mark.usefixtures("restored")
def test_a_signal_is_handed_on_and_all_are_waited_for(everyone: dict[str, Waiting]) -> None:
    *servers, engine = everyone.values()
    stop = Stop()
    soon(os.kill, os.getpid(), signal.SIGTERM)
    assert _watched(servers, [engine], stop) == 0
    assert stop.is_requested and [each.exitcode for each in servers] == [0, 3]
    assert engine.exitcode is None, "it ends after them"


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize(("victim", "status"), [("ApiServer_0", 1), ("ApiServer_1", 3), ("EngineCore", 4)])
def test_one_that_dies_ends_the_watch(
    everyone: dict[str, Waiting], victim: str, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    *servers, engine = everyone.values()
    soon(everyone[victim].terminate)
    assert _watched(servers, [engine], Stop()) == status
    assert f"{victim} has died" in capsys.readouterr().err


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
