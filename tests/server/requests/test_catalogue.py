"""The catalogue over several checkpoints and the operator's settings."""

import re
from typing import Any

import pytest

from server.requests.catalogue import Catalogue
from server.start.settings import as_startup_error
from tests.server.kit import catalogue, value_config
from valuemodels.contract.errors import CheckpointError, GuidanceError
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.policy import Bounds

CONFIG = GuideConfig(checkpoints=(), base_model="base")


def test_several_checkpoints_make_one_catalogue() -> None:
    both = Catalogue(CONFIG, [value_config("a"), value_config("b", "c", checkpoint="test-2")])
    assert both.policy.objectives == ("a", "b", "c")
    assert both.checkpoint == "test-1+test-2"
    assert [entry["checkpoint"] for entry in both.listing()["data"]] == ["test-1", "test-2", "test-2"]


def test_one_name_in_two_checkpoints_is_one_sentence() -> None:
    with pytest.raises(
        CheckpointError, match=r"^objective b is in both value checkpoints, test-1 and test-2; serve only one of them$"
    ):
        Catalogue(CONFIG, [value_config("a", "b"), value_config("b", checkpoint="test-2")])


@pytest.mark.parametrize(
    ("operator", "sentence"),
    [
        ({"default_weights": {"humour": 1}}, r"MAVIS_DEFAULT_WEIGHTS\.humour: .*positivity, simplicity"),
        ({"default_weights": {"simplicity": 1.5}}, r"MAVIS_DEFAULT_WEIGHTS\.simplicity: got 1\.5, .*-1 to 1"),
        ({"bounds": {"humour": Bounds()}}, r"MAVIS_BOUNDS\.humour"),
        ({"bounds": {"positivity": Bounds(1, 0)}}, r"MAVIS_BOUNDS\.positivity: got \[1, 0\]"),
        ({"default_beta": -1}, r"MAVIS_DEFAULT_BETA: got -1"),
        ({"max_candidates": 8}, r"MAVIS_DEFAULT_CANDIDATES: got 40, .*1 to 8"),
        ({"max_candidates": 0}, r"MAVIS_MAX_CANDIDATES: got 0"),
    ],
)
def test_settings_that_do_not_fit_name_the_variable(operator: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GuidanceError) as refused:
        catalogue(**operator)
    assert re.search(sentence, str(as_startup_error(refused.value)))


def test_weights_left_out_keep_the_operators_default() -> None:
    made = catalogue(default_weights={"positivity": 0.5, "simplicity": 0.25})
    resolved = made.check({"objective_weights": {"simplicity": -1}}, "x").resolved
    assert resolved.weights == (0.5, -1.0)
