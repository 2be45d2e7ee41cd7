"""What was measured of the checkpoints, as the catalogue tells it."""

from server.api.offer_schema import EvaluationList
from server.requests.catalogue import Catalogue
from tests.server.kit import catalogue
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import read_value_config
from valuemodels.sources.embedded import EMBEDDED_VALUES


def test_the_shipped_checkpoints_report_is_told_as_declared() -> None:
    config = GuideConfig(checkpoints=(str(EMBEDDED_VALUES),), base_model="base")
    body = Catalogue(config, [read_value_config(EMBEDDED_VALUES)]).evaluations()
    told = EvaluationList.model_validate(body)
    assert [each.checkpoint for each in told.data] == [read_value_config(EMBEDDED_VALUES).id]
    assert told.model_dump(mode="json") == body, "nothing is told that is not declared"


def test_a_checkpoint_that_nobody_measured_has_none() -> None:
    assert catalogue().evaluations() == {"object": "list", "data": []}
