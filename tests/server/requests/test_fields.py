"""Which unknown names are taken for a slip of ours."""

import pytest

from server.errors import FieldError
from server.requests.fields import GuidanceFields, checked_id, near_miss


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("objective_weight", "objective_weights"),
        ("obj_weights", "objective_weights"),
        ("objectiveWeights", "objective_weights"),
        ("objective-weights", "objective_weights"),
        ("weights", "objective_weights"),
        ("kl_buget", "kl_budget"),
        ("KL_budget", "kl_budget"),
        ("candidate", "candidates"),
        ("num_candidates", "candidates"),
        ("return_value", "return_values"),
        ("betas", "beta"),
        ("profiles", "profile"),
    ],
)
def test_a_slip_of_the_pen_names_what_was_meant(written: str, meant: str) -> None:
    assert near_miss(written, GuidanceFields.model_fields) == meant


FOREIGN = """
metadata store best_of service_tier user prediction functions function_call modalities audio verbosity reasoning
web_search_options safety_identifier prompt_cache_key guided_json top_a no_repeat_ngram_size
"""


@pytest.mark.parametrize("name", FOREIGN.split())
def test_names_that_clients_of_openai_send_are_let_through(name: str) -> None:
    assert near_miss(name, GuidanceFields.model_fields) is None


@pytest.mark.parametrize("value", ["", "x" * 129, "a\nb", "tä", "\x7f"])
def test_ids_that_would_not_survive_a_log_are_refused(value: str) -> None:
    with pytest.raises(FieldError, match="X-Request-Id"):
        checked_id([("request_id", None), ("X-Request-Id", value)])


def test_ids_within_bounds_are_taken() -> None:
    checked_id([("X-Request-Id", "x" * 128), ("request_id", "a b/c:d~"), ("X-Request-Id", None)])
