"""`mavis_*` Prometheus metrics, in the default registry that vLLM's `/metrics` serves.

Runs in the HTTP process. No torch, no vLLM.
"""

from collections.abc import Mapping
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

REQUESTS = Counter("mavis_requests_total", "Requests that were accepted.", ["route", "guided"])
ERRORS = Counter("mavis_request_errors_total", "Requests that we refused or lost, by field.", ["param"])
CHANGES = Counter("mavis_changes_total", "Changes to running generations.", ["outcome"])
REFUSALS = Counter(
    "mavis_refused_requests_total", "Requests turned away before anything of them was read.", ["reason", "key"]
)
WAITING = Gauge(
    "mavis_waiting_sequences",
    "Sequences that the engine has been handed and has not begun to answer.",
    multiprocess_mode="livesum",
)
GENERATIONS = Gauge(
    "mavis_live_generations",
    "Generations that can be changed, or are about to be forgotten.",
    multiprocess_mode="livesum",
)
TOKENS = Counter("mavis_guided_tokens_total", "Tokens returned of guided choices.")
KL_NATS = Histogram(
    "mavis_kl_nats",
    "KL from the base model of a guided choice, in nats.",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 50, 100, 200),
)
VALUES = Histogram(
    "mavis_values",
    "What a guided choice's tokens did for an objective, in standard deviations of the base's reward.",
    ["objective"],
    buckets=(-10, -5, -2, -1, -0.5, 0, 0.5, 1, 2, 5, 10),
)

_WORKER_COUNTERS = {
    "value_fallback_rows": Counter(
        "mavis_value_fallback_rows_total", "Steps that fell back to the base logits after a non-finite value."
    ),
    "guided_rows": Counter("mavis_guided_rows_total", "Steps that were tilted or traced."),
    "cache_evictions": Counter(
        "mavis_value_cache_evictions_total", "Running sequences that the value KV cache had forgotten and read again."
    ),
    "cache_shared_tokens": Counter(
        "mavis_value_cache_shared_tokens_total",
        "Tokens that exact value models did not have to read, since another sequence began with the same.",
    ),
}
_WORKER_GAUGES = {
    "cache_bytes": Gauge(
        "mavis_value_cache_bytes", "Bytes in use of the value KV cache.", multiprocess_mode="mostrecent"
    ),
    "cache_capacity_bytes": Gauge(
        "mavis_value_cache_capacity_bytes", "Size of the value KV cache.", multiprocess_mode="mostrecent"
    ),
    "traces": Gauge("mavis_worker_traces", "Generations whose traces a worker keeps.", multiprocess_mode="mostrecent"),
    "changed_generations": Gauge(
        "mavis_worker_changed_generations", "Generations whose changes a worker keeps.", multiprocess_mode="mostrecent"
    ),
    "cached_sequences": Gauge(
        "mavis_value_cached_sequences", "Sequences in the value KV cache.", multiprocess_mode="mostrecent"
    ),
}


class WorkerStats:
    """Turns the worker's `stats` into metrics. The worker counts from its own start, Prometheus wants increments."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def observe(self, stats: Mapping[str, Any]) -> None:
        """Take in one reading."""
        for name, counter in _WORKER_COUNTERS.items():
            now = float(stats.get(name, 0))
            counter.inc(max(0.0, now - self._last.get(name, 0.0)))
            self._last[name] = now
        for name, gauge in _WORKER_GAUGES.items():
            if name in stats:
                gauge.set(float(stats[name]))


def observe_choice(tokens: int, kl_nats: float | None, values: Mapping[str, float]) -> None:
    """Note one finished guided choice; where its trace was lost `kl_nats` is None and there are no values."""
    TOKENS.inc(tokens)
    if kl_nats is not None:
        KL_NATS.observe(kl_nats)
    for objective, value in values.items():
        VALUES.labels(objective).observe(value)


def observe_error(label: str) -> None:
    """Note a refused request. `label` is of a closed set: each value is a series that stays for ever."""
    ERRORS.labels(label).inc()
