"""`mavis flip` around a fake engine that writes by the weight of each token."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner, Result

from tests.training.kit import FakeEngine
from training.evaluate import flip
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from valuemodels.contract.schedule import scheduled
from valuemodels.contract.value_config import CONFIG_FILE, ObjectiveConfig, ValueConfig

TOKENS = 8
REWARD = 'tests.training.letters:Letters {"wanted": "a"}'


class LetterEngine(FakeEngine):
    """Writes "a" where the weight is above 0, "z" where it is below, and "m" without one."""

    letters: dict[str, int] = {}  # noqa: RUF012 (set by the fixture)

    def reply(self, request: Request) -> Reply:
        tokens = tuple(self.letters[self._letter(request, at)] for at in range(TOKENS))
        kl_nats = 0.0 if request.guidance is None else 2.0
        return Reply(request.prompt_id, request.prompt_token_ids, request.sample, tokens, "", "length", kl_nats)

    @staticmethod
    def _letter(request: Request, token: int) -> str:
        if request.guidance is None:
            return "m"
        return "a" if scheduled(request.guidance, token).weights["warmth"] > 0 else "z"


@pytest.fixture
def call(
    tiny_config: Callable[..., ValueConfig], chat_base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Result]:
    folder = tmp_path / "values"
    folder.mkdir()
    objective = ObjectiveConfig(name="warmth", description="", reward=REWARD, mean=0.0, std=2.0, scale=1.0)
    config = tiny_config(objectives=(objective,), training={"recipe": "embedded", "iteration": 0, "data_hash": "none"})
    (folder / CONFIG_FILE).write_text(config.model_dump_json())
    tokenizer = AutoTokenizer.from_pretrained(chat_base)
    LetterEngine.letters = {letter: tokenizer.convert_tokens_to_ids(letter) for letter in "amz"}
    monkeypatch.setattr("training.evaluate.checkpoint.RolloutEngine", LetterEngine)

    def invoke(*arguments: str) -> Result:
        fixed = ["--values", str(folder), "--base-folder", chat_base, "--limit", "4", "--max-tokens", str(TOKENS)]
        return CliRunner().invoke(flip.app, [*fixed, *arguments])

    return invoke


def test_each_half_is_measured_against_the_same_half_of_the_bases_reply(
    call: Callable[..., Result], tmp_path: Path
) -> None:
    """Would catch halves that change places, and a weight that turns a token early."""
    result = call("--objective", "warmth", "--samples", "2", "--out", str(tmp_path / "flip.json"))
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "flip.json").read_text())
    found = {row["course"]: (row["first"]["value"], row["second"]["value"]) for row in report["rows"]}
    # Four letters more than the base has, of standard deviation 2; "z" counts as "m" does.
    assert found == {
        "+1 throughout": (2.0, 2.0),
        "+1, then -1": (2.0, 0.0),
        "-1, then +1": (0.0, 2.0),
        "-1 throughout": (0.0, 0.0),
    }
    assert report["prompts"] == 4 and all(row["kl_nats"]["value"] == 2.0 for row in report["rows"])


def test_an_objective_that_is_not_there_is_named(call: Callable[..., Result]) -> None:
    result = call("--objective", "humour")
    assert result.exit_code == 2 and "objective: got 'humour', allowed is one of warmth" in result.output
