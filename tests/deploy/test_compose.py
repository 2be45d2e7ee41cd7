"""The compose file: what it mounts is there, what it reads is watched, and nothing has more rights than it needs."""

from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
SERVERS = ("cpu", "gpu")


def test_what_is_mounted_is_there_or_a_volume() -> None:
    for service in SERVICES.values():
        for mounted in service.get("volumes", []):
            source = mounted.split(":")[0]
            assert (DEPLOY / source).is_file() if source.startswith(".") else source in COMPOSE["volumes"], mounted


def test_what_is_built_has_a_file_to_build_it_from() -> None:
    for name in SERVERS:
        build = SERVICES[name]["build"]
        assert (DEPLOY / build["context"] / build.get("dockerfile", "Dockerfile")).is_file()


def test_arguments_settings_and_the_hub_s_token_reach_the_server() -> None:
    for server in SERVERS:
        service = SERVICES[server]
        assert service["command"] == "${ARGS:-}" and service["environment"] == ["HF_TOKEN"]
        assert service["env_file"] == [{"path": "server.env", "required": False}]


def test_prometheus_finds_the_server_by_the_name_that_both_have() -> None:
    (job,) = yaml.safe_load((DEPLOY / "monitoring" / "prometheus.yml").read_text())["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    name, port = target.split(":")
    for server in SERVERS:
        assert SERVICES[server]["networks"]["default"]["aliases"] == [name]
        assert SERVICES[server]["ports"] == [f"{port}:{port}"]


def test_servers_run_with_few_rights_and_have_time_to_drain() -> None:
    for server in SERVERS:
        service = SERVICES[server]
        assert service["read_only"] and service["cap_drop"] == ["ALL"] and service["tmpfs"] == ["/tmp"]
        assert service["stop_grace_period"] == "40s", "longer than MAVIS_DRAIN_S and what follows together"
        assert "/ready" in service["healthcheck"]["test"][-1]


def test_every_image_that_is_not_built_here_has_a_version() -> None:
    for name, service in SERVICES.items():
        if name not in SERVERS:
            assert service["image"].split(":")[1][0] in "v0123456789", service["image"]
