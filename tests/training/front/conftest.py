"""`mavis evaluate front` and `mavis evaluate optimum` around a fake engine."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from typer.testing import CliRunner, Result

from tests.training.kit import FakeEngine
from training.front.command import app
from training.rollouts.engine import Limits, Reply
from training.rollouts.requests import Request
from valuemodels.contract.value_config import CONFIG_FILE, ObjectiveConfig, ValueConfig

WARM = ("horrible", "sad", "plain", "nice", "wonderful")
PLAIN = ("extraordinarily", "peculiarly", "rather", "quite", "so")
KL, KEPT_KL, CUT, OWN, READ = 1.5, 2.0, 0.25, -20.0, -26.0


class TwoWordEngine(FakeEngine):
    """Replies with a warmer and a plainer word the higher the weights; by chance where there are none.

    Attributes:
        cuts: `Limits.top_k` of the latest requests.
    """

    cuts: ClassVar[set[int | None]] = set()

    def sample(self, requests: Sequence[Request], limits: Limits) -> list[Reply]:
        assert all(
            request.guidance is None or limits.read_top == (request.guidance.candidates or 40) for request in requests
        )
        type(self).cuts = {limits.top_k}
        return super().sample(requests, limits)

    def reply(self, request: Request) -> Reply:
        warm, plain = request.seed % 5, request.seed // 5 % 5
        log_ratios: tuple[float, ...] = ()
        if request.guidance is not None:
            weights = request.guidance.weights
            warm, plain = (2 + round(2 * weights.get(name, 0.0)) for name in ("positivity", "simplicity"))
            log_ratios = (KEPT_KL / 4,) * 4
        text = f"The bread was {PLAIN[plain]} {WARM[warm]} on day {request.seed % 97}."
        own = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*own, (1,) * 4, text, "stop", KL, log_ratios, base_logprob=OWN, cut_nats=CUT)

    def base_logprobs(self, texts: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[float]:
        return [READ] * len(texts)


@pytest.fixture
def call(
    tiny_config: Callable[..., ValueConfig], chat_base: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., Result]:
    monkeypatch.setattr("training.evaluate.checkpoint.RolloutEngine", TwoWordEngine)
    objectives = tuple(
        ObjectiveConfig(name=name, description=name, reward=name, mean=mean, std=0.25, scale=1.0)
        for name, mean in (("positivity", 0.0), ("simplicity", 4.5))
    )
    folder = tmp_path / "values"
    folder.mkdir()
    config = tiny_config(objectives=objectives, training={"recipe": "embedded", "iteration": 0, "data_hash": "none"})
    (folder / CONFIG_FILE).write_text(config.model_dump_json())

    def invoke(*arguments: str, command: str = "front") -> Result:
        fixed = [command, "--values", str(folder), "--base-folder", chat_base, "--limit", "6", "--samples", "2"]
        places = ["--run-dir", str(tmp_path / "runs"), "--out", str(tmp_path / "out")]
        return CliRunner().invoke(app, [*fixed, *places, *arguments])

    return invoke


def report_of(tmp_path: Path) -> Any:
    return json.loads((tmp_path / "out" / "report.json").read_text())
