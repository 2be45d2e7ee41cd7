"""vLLM's server under our command: what it refuses late is one sentence, too."""

from argparse import Namespace

import pytest
from pydantic import BaseModel, ValidationError, model_validator

from server.errors import StartupError
from server.start import vllm_server
from server.start.stopping import Stop


def refused_by_vllm(**flags: object) -> ValidationError:
    """What a configuration of vLLM's raises."""

    class Config(BaseModel):
        max_model_len: int

        @model_validator(mode="after")
        def _fits(self) -> "Config":
            raise ValueError(
                f"max_model_len ({self.max_model_len}) is above 8192.0 (e.g. of config.json). Set A=1. Or B."
            )

    with pytest.raises(ValidationError) as refused:
        Config.model_validate(flags)
    return refused.value


def test_a_flag_that_vllm_refuses_late_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(args: Namespace, joined: object) -> None:
        raise refused_by_vllm(max_model_len=99999)

    monkeypatch.setattr(vllm_server, "_serve", serve)
    with pytest.raises(StartupError) as refused:
        vllm_server.run_server(Namespace(), Stop())
    reason = "max_model_len (99999) is above 8192.0 (e.g. of config.json)."
    assert str(refused.value) == f"vLLM refuses its flags: {reason}"
