"""Load generators that others wrote, run on a server: vLLM's own, and GuideLLM where it is installed.

Each is a command that writes its figures to a file; here the command is put together, and the file read. Runs in the
command's process. Must not import torch or vllm.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from training.bench.servers import BenchServer
from training.errors import MeasurementError

PERCENTILES = (50, 95, 99)
_PATH = "/v1/completions"
# What the command `vllm bench serve` does; it ends at once where vLLM's distribution is not called vllm, as on a CPU.
_VLLM_BENCH = """
from vllm.benchmarks.serve import add_cli_args, main
from vllm.utils.argparse_utils import FlexibleArgumentParser

parser = FlexibleArgumentParser()
add_cli_args(parser)
main(parser.parse_args())
"""


@dataclass(frozen=True, slots=True)
class ToolLoad:
    """Requests that come as a Poisson process.

    Attributes:
        prompts: JSON lines with a "prompt"; tokenizer: folder of the base's.
        rate: requests a second; max_tokens: of every answer, which has all of them.
        first_ms, next_ms: within which a request's first token, and its others on average, have to come to be good.
    """

    prompts: Path
    tokenizer: str
    requests: int
    rate: float
    max_tokens: int
    first_ms: float
    next_ms: float
    seed: int


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tool has found. Latencies in ms, by percentile.

    Attributes:
        first: to the first token; gap: between two tokens.
        good_per_s: requests a second that were good.
    """

    first: Mapping[str, float]
    gap: Mapping[str, float]
    tokens_per_s: float
    good_per_s: float


class Tool(Protocol):
    """A load generator."""

    @property
    def name(self) -> str: ...

    def load(self, server: BenchServer, fields: Mapping[str, object], load: ToolLoad, folder: Path) -> Reading:
        """Put a load on a server.

        Args:
            fields: of every request, beside what all have.
            folder: for the tool's own files.

        Raises:
            MeasurementError: it failed, or lost a request; with what it said last.
        """
        ...


@dataclass(frozen=True, slots=True)
class VllmBench:
    """`vllm bench serve`."""

    name: str = "vllm bench serve"

    def load(self, server: BenchServer, fields: Mapping[str, object], load: ToolLoad, folder: Path) -> Reading:
        """See `Tool`."""
        asked = {
            "backend": "openai",
            "base-url": server.url,
            "endpoint": _PATH,
            "model": server.model,
            "tokenizer": load.tokenizer,
            "dataset-name": "custom",
            "dataset-path": load.prompts,
            "custom-output-len": load.max_tokens,
            "num-prompts": load.requests,
            "request-rate": load.rate,
            "seed": load.seed,
            "temperature": 1,
            "extra-body": json.dumps(fields),
            "percentile-metrics": "ttft,itl",
            "metric-percentiles": ",".join(map(str, PERCENTILES)),
            "result-dir": folder,
            "result-filename": "vllm.json",
        }
        flags = [part for name, value in asked.items() for part in (f"--{name}", str(value))]
        goodput = ["--goodput", f"ttft:{load.first_ms:g}", f"tpot:{load.next_ms:g}"]
        switches = ["--ignore-eos", "--skip-chat-template", "--save-result", "--disable-tqdm"]
        _run([sys.executable, "-c", _VLLM_BENCH, *flags, *switches, *goodput])
        found = json.loads((folder / "vllm.json").read_text())
        _none_lost(found["completed"], load, {"failed": found["failed"]})
        return Reading(
            first={f"p{share}": found[f"p{share}_ttft_ms"] for share in PERCENTILES},
            gap={f"p{share}": found[f"p{share}_itl_ms"] for share in PERCENTILES},
            tokens_per_s=found["output_throughput"],
            good_per_s=found["request_goodput"],
        )


@dataclass(frozen=True, slots=True)
class GuideLlm:
    """GuideLLM, by its command."""

    command: str
    name: str = "guidellm"

    def load(self, server: BenchServer, fields: Mapping[str, object], load: ToolLoad, folder: Path) -> Reading:
        """See `Tool`."""
        scenario = folder / "scenario.json"
        scenario.write_text(json.dumps(_scenario(server, fields, load, folder)))
        _run([self.command, "run", "--config", str(scenario), "--disable-console"])
        (found,) = json.loads((folder / "guidellm.json").read_text())["benchmarks"]
        metrics = found["metrics"]
        totals = metrics["request_totals"]
        _none_lost(totals["successful"], load, totals)
        return Reading(
            first=_percentiles(metrics["time_to_first_token_ms"]),
            gap=_percentiles(metrics["inter_token_latency_ms"]),
            tokens_per_s=metrics["output_token_count"]["successful"]["total_sum"] / found["duration"],
            good_per_s=metrics["slo_attainment"] * load.requests / found["duration"],
        )


def _scenario(server: BenchServer, fields: Mapping[str, object], load: ToolLoad, folder: Path) -> dict[str, Any]:
    """What GuideLLM is to do, in its own words."""
    spec = {
        "backend": {
            "kind": "openai_http",
            "target": server.url,
            "model": server.model,
            "request_format": _PATH,
            "max_tokens": load.max_tokens,
            "http2": False,
            "extras": {"body": {"ignore_eos": True, "temperature": 1, "seed": load.seed, **fields}},
        },
        "profile": {"kind": "poisson", "rate": [load.rate]},
        "constraints": [{"kind": "max_requests", "count": load.requests}],
        "tokenizer": {"kind": "huggingface_auto", "model": load.tokenizer},
        "data": [{"kind": "json_file", "path": str(load.prompts)}],
        "seed": {"kind": "static", "value": load.seed},
        "outputs": [{"kind": "json", "path": str(folder / "guidellm.json")}],
        "metrics": {"kind": "generative", "slo": {"ttft_ms": load.first_ms, "tpot_ms": load.next_ms}},
    }
    return {"metadata": {"name": "mavis"}, "spec": spec}


def _percentiles(metric: Mapping[str, Any]) -> dict[str, float]:
    return {f"p{share}": metric["successful"]["percentiles"][f"p{share}"] for share in PERCENTILES}


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": ""}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    except OSError as error:
        raise MeasurementError(f"{command[0]} cannot be run: {error.strerror}") from None
    if ended.returncode:
        raise MeasurementError(f"{Path(command[0]).name} failed; it said last: {(ended.stdout + ended.stderr)[-1500:]}")


def _none_lost(completed: int, load: ToolLoad, told: object) -> None:
    if completed != load.requests:
        lost = f"{load.requests - completed} of {load.requests} requests were not answered well"
        raise MeasurementError(f"{lost}; the tool says: {told}")
