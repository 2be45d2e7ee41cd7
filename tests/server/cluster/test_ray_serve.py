"""What may be said of a deployment on Ray, and the config that ships. On a cluster: tests/e2e/test_ray_serve.py."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError
from ray.serve.schema import ServeDeploySchema

from server.cluster.child import FAREWELL_S
from server.cluster.ray_serve import Arguments, MavisReplica, build
from server.errors import StartupError

CONFIG = Path(__file__).parents[3] / "deploy" / "ray" / "serve.yaml"


def test_the_shipped_config_is_rays_and_ours() -> None:
    config = ServeDeploySchema.model_validate(yaml.safe_load(CONFIG.read_text()))
    (application,) = config.applications
    (deployment,) = application.deployments
    said = Arguments.model_validate(application.args)
    assert application.import_path == f"{build.__module__}:{build.__name__}"
    assert deployment.name == build(said)._bound_deployment.name == MavisReplica.__name__
    assert deployment.graceful_shutdown_timeout_s == said.drain_s + FAREWELL_S


@pytest.mark.parametrize("word", ["--port 1", "MODEL --host=0.0.0.0", "--uds /tmp/x"])
def test_where_it_listens_is_rays_to_say(word: str) -> None:
    with pytest.raises(ValidationError, match="is not for you to say"):
        Arguments(arguments=word)


def test_what_is_misspelt_is_refused() -> None:
    with pytest.raises(ValidationError, match="drain"):
        Arguments.model_validate({"drain": 5})


def test_how_long_it_drains_is_said_once() -> None:
    with pytest.raises(ValidationError, match="MAVIS_DRAIN_S is said as drain_s"):
        Arguments(environment={"MAVIS_DRAIN_S": "5"})


def test_checkpoints_are_not_exchanged_on_a_cluster() -> None:
    with pytest.raises(StartupError, match="MAVIS_ADMIN_KEY is not supported on Ray"):
        MavisReplica(Arguments(environment={"MAVIS_ADMIN_KEY": "x" * 16}))
