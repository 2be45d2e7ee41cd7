"""Changes on the real engine: across a queue, preemptions and choices. Every test says which bug it would catch."""

import json
import random
import socket
import threading
import time
from dataclasses import replace
from typing import Any

import pytest

from tests.invariants.conftest import only_float32
from tests.invariants.engine import CROWD, generate, generate_stepwise, preemptions, read_traces, unhurried
from tests.invariants.kit import guided, request
from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName

pytestmark = pytest.mark.engine

NEW: dict[str, Any] = {"warmth": -1.0, "brevity": 0.75}


def change(engine: Any, generation_id: str, choice: ChoiceName | None = None, **weights: float) -> dict[str, Any]:
    """Have the workers take over other weights; returns the next tokens that they tell."""
    answers = engine.collective_rpc(
        "mavis_exchange", args=([Change(generation_id, weights, choice=choice).to_wire()], {}, [])
    )
    next_tokens: dict[str, Any] = next(answer["next_tokens"] for answer in answers if answer is not None)
    return next_tokens


@only_float32
def test_a_change_holds_through_queue_and_preemption_as_if_asked_for_at_the_start(engine: Any) -> None:
    """Catches overrides that are lost when V1 removes a request, or when its original parameters come back."""
    fresh = [request(40, 40 + i, guided(weights=NEW), max_tokens=60) for i in range(CROWD)]
    steered = [{**asked, "guidance": guided()} for asked in fresh]
    for asked in steered:
        assert change(engine, asked["guidance"].generation_id, **NEW) == {}, "nothing of it has reached the worker yet"
    expected = unhurried(engine, fresh)
    before = preemptions(engine)
    answers = generate(engine, steered)
    assert preemptions(engine) > before, "the test needs an engine short of memory"
    assert (answers == expected) is True
    for asked in steered:
        name = asked["guidance"].generation_id
        assert read_traces(engine, name)[name]["0:0"]["settings"] == [[0, list(NEW.values()), 1.0, None]]


def test_a_dropped_generation_leaves_nothing_to_the_next_of_its_id(engine: Any) -> None:
    """Catches overrides that outlive their generation."""
    asked = request(18, 60, guided())
    first = generate(engine, [asked])
    change(engine, asked["guidance"].generation_id, **NEW)
    assert generate(engine, [asked]) != first
    read_traces(engine, asked["guidance"].generation_id)
    assert generate(engine, [asked]) == first


def test_a_plain_request_that_is_steered_is_guided_and_its_neighbour_stays_plain(engine: Any) -> None:
    """Catches plain rows that are not followed, and choices that share what is their own."""
    guidance = guided(weights={}, trace="totals")
    both = [request(18, 61, replace(guidance, prompt_index=prompt)) for prompt in range(2)]
    untouched = generate(engine, both)
    change(engine, guidance.generation_id, ChoiceName(1, 0), **NEW)
    first, second = generate(engine, both)
    assert first == untouched[0]
    assert [second] == generate(engine, [request(18, 61, guided(weights=NEW))])
    assert second != untouched[1]


def test_a_change_by_the_socket_holds_for_the_token_of_the_step_that_finds_it(engine: Any) -> None:
    """Catches a worker that does not look in a step, that looks after its rows are read, or that tells another token.

    All that a running text is changed to comes by the socket, before the step of every third token.
    """
    asked = request(18, 62, guided(), max_tokens=24)
    name = asked["guidance"].generation_id
    (attached,) = engine.collective_rpc("mavis_attach")
    weights = {at: {"warmth": (-1.0) ** at, "brevity": at / 24} for at in range(3, 24, 3)}
    told: dict[int, int] = {}
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(f"\0{attached['change_socket']}")

        def before_step(at: int) -> None:
            if at in weights:
                line.send(json.dumps([at, Change(name, weights[at]).to_wire()]).encode())
            if at - 1 in weights:
                number, tokens = json.loads(line.recv(1 << 16))
                told[number] = tokens["0:0"]

        generate_stepwise(engine, asked, before_step)
    assert told == {at: at for at in weights}
    settings = read_traces(engine, name)[name]["0:0"]["settings"]
    assert [[at, list(values.values())] for at, values in weights.items()] == [each[:2] for each in settings[1:]]


def test_a_change_by_the_socket_holds_from_the_token_that_is_told_whenever_it_comes(engine: Any) -> None:
    """Catches a worker that tells, while a step computes, a token whose settings that step has read already."""
    asked = request(18, 63, guided(), max_tokens=48)
    name = asked["guidance"].generation_id
    (attached,) = engine.collective_rpc("mavis_attach")
    held: dict[int, list[float]] = {}
    ended = threading.Event()

    def steer(line: socket.socket) -> None:
        draw = random.Random(0)
        while not ended.is_set():
            weights = {"warmth": draw.uniform(-1.0, 1.0), "brevity": draw.uniform(-1.0, 1.0)}
            line.send(json.dumps([0, Change(name, weights).to_wire()]).encode())
            _, tokens = json.loads(line.recv(1 << 16))
            held.update((token, list(weights.values())) for token in tokens.values())
            time.sleep(draw.uniform(0.0, 0.01))

    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as line:
        line.connect(f"\0{attached['change_socket']}")
        line.settimeout(60)
        steering = threading.Thread(target=steer, args=(line,))
        steering.start()
        generate(engine, [asked])
        ended.set()
        steering.join()
    settings = read_traces(engine, name)[name]["0:0"]["settings"]
    assert len(held) > 5, "the test needs changes while the text runs"
    assert {first: weights for first, weights, *_ in settings if first} == {
        token: weights for token, weights in held.items() if 0 < token < 48
    }
