"""Traces hold one entry a sampled token, whatever order steps, samples and reads come in."""

from valuemodels.traces import Step, TraceStore


def step(*token_ids: int, kl: float = 0.1) -> Step:
    n = len(token_ids)
    return Step(
        list(token_ids),
        kl,
        [[float(t)] for t in token_ids],
        [[float(t) * 10] for t in token_ids],
        [-1.0] * n,
        [-2.0] * n,
    )


def opened(output: list[int], detail: str = "values"):
    store = TraceStore(4)
    return store, store.open("g", "0:0", detail, output)  # type: ignore[arg-type]


def test_a_token_is_entered_once_it_has_been_sampled():
    output: list[int] = []
    store, trace = opened(output)
    trace.record(step(5, 7))
    assert store.read({"g": {}})["g"]["0:0"]["kl"] == []
    output.append(7)
    read = store.read({"g": {}})["g"]["0:0"]
    assert read["token_ids"] == [7] and read["values"] == [[7.0]] and read["levels"] == [[70.0]] and read["kl"] == [0.1]


def test_the_last_token_of_a_generation_is_read_without_another_step():
    output: list[int] = []
    store, trace = opened(output)
    for token in (5, 6, 7):
        trace.record(step(5, 6, 7))
        output.append(token)
    assert store.read({"g": {"0:0": 1}})["g"]["0:0"]["token_ids"] == [6, 7]


def test_a_token_that_async_scheduling_has_not_repaired_yet_waits():
    output: list[int] = []
    store, trace = opened(output)
    trace.record(step(5))
    output.append(-1)
    assert store.read({"g": {}})["g"]["0:0"]["kl"] == []
    output[0] = 5
    assert store.read({"g": {}})["g"]["0:0"]["token_ids"] == [5]


def test_scoring_a_position_again_replaces_it():
    output: list[int] = []
    _, trace = opened(output)
    trace.record(step(5, kl=0.1))
    trace.record(step(5, kl=0.2))
    output.append(5)
    assert trace.read(0)["kl"] == [0.2]


def test_a_resumed_request_goes_on_in_a_new_list():
    output: list[int] = []
    store, trace = opened(output)
    trace.record(step(5))
    output.append(5)
    trace.record(step(6))
    resumed = [5]
    trace = store.open("g", "0:0", "values", resumed)
    trace.record(step(6, kl=0.3))
    resumed.append(6)
    assert trace.read(0)["token_ids"] == [5, 6] and trace.read(0)["kl"] == [0.1, 0.3]


def test_unscored_steps_and_tokens_outside_the_candidates_have_no_values():
    output: list[int] = []
    _, trace = opened(output)
    trace.record(None)
    output.append(3)
    trace.record(step(5))
    output.append(9)
    assert trace.read(0)["values"] == [None, None] and trace.read(0)["kl"] == [0.0, 0.1]


def test_candidates_are_kept_only_when_asked_for():
    output: list[int] = []
    _, trace = opened(output, "candidates")
    trace.record(step(5, 6))
    output.append(6)
    assert [c["token_id"] for c in trace.read(0)["candidates"][0]] == [5, 6]
    assert "candidates" not in opened([])[1].read(0)


def test_the_store_is_bounded_and_drops_on_request():
    store = TraceStore(2)
    for name in "abc":
        store.open(name, "0:0", "values", [])
    assert store.read({"a": {}, "b": {}, "c": {}}).keys() == {"b", "c"}
    store.drop(["b", "unknown"])
    assert store.read({"b": {}}) == {}
