"""Where a `Guidance` enters vLLM's sampling parameters."""

from server.requests.models import GuidedChatCompletionRequest, GuidedCompletionRequest
from valuemodels.contract.guidance import EXTRA_ARGS_KEY, Guidance


def test_every_prompt_gets_its_own_guidance_and_the_shared_dict_stays_as_it_was() -> None:
    """vLLM hands one `vllm_xargs` dict to all prompts: writing into it would give all the last prompt's index."""
    request = GuidedCompletionRequest.model_validate({"prompt": ["a", "b"], "vllm_xargs": {"other": 1}})
    request.guide(Guidance("cmpl-x", weights={"positivity": 1.0}))
    first, second = (request.to_sampling_params(8, {}).extra_args for _ in range(2))
    assert first is not None
    assert second is not None
    assert [first[EXTRA_ARGS_KEY].prompt_index, second[EXTRA_ARGS_KEY].prompt_index] == [0, 1]
    assert isinstance(first[EXTRA_ARGS_KEY], Guidance)
    assert first["other"] == 1
    assert request.vllm_xargs == {"other": 1}


def test_without_guidance_the_parameters_are_vllms() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "seed": 3}
    request = GuidedChatCompletionRequest.model_validate(body)
    assert request.to_sampling_params(8, {}).extra_args is None


def test_our_fields_are_typed_on_the_openapi_page() -> None:
    properties = GuidedChatCompletionRequest.model_json_schema()["properties"]
    assert {"type": "object", "additionalProperties": {"type": "number"}} in properties["objective_weights"]["anyOf"]
    assert {"type": "number"} in properties["beta"]["anyOf"]
