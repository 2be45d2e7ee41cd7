"""From a name to a folder: what lies here is taken, the rest is fetched or refused in one sentence."""

from pathlib import Path
from typing import Any, NoReturn

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from valuemodels.contract.errors import HubError
from valuemodels.sources import hub
from valuemodels.sources.hub import resolve_folder


def refuse_to_fetch(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("the hub was asked")


def test_an_existing_folder_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot_download", refuse_to_fetch)
    assert resolve_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("name", ["/no/such/folder", "./here", "../there", "~/nowhere-at-all", "~nobody-of-that-name"])
def test_a_path_that_does_not_exist_is_never_asked_of_the_hub(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot_download", refuse_to_fetch)
    with pytest.raises(HubError, match="does not exist"):
        resolve_folder(name)


def test_an_empty_name_is_refused() -> None:
    """Would catch the empty path, which is the current folder."""
    with pytest.raises(HubError, match="the name is empty"):
        resolve_folder("")


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(HubError, match="is a file; allowed is a folder or"):
        resolve_folder(str(tmp_path / "model.gguf"))


def test_only_data_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch a pattern that lets in code or pickles."""
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        (tmp_path / "model.safetensors").write_text("")
        return str(tmp_path)

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert resolve_folder("owner/name", "v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("owner/name", "v1")
    endings = {Path(pattern).suffix for pattern in asked["allow_patterns"]}
    assert endings == {".json", ".safetensors", ".jinja", ".model", ".txt"}


def test_a_model_without_safetensors_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    with pytest.raises(HubError, match="no safetensors file"):
        resolve_folder("owner/name")


@pytest.mark.parametrize(
    ("offline", "reason"), [(True, "HF_HUB_OFFLINE forbids fetching it"), (False, "the hub cannot be reached")]
)
def test_no_connection_is_one_sentence(offline: bool, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise LocalEntryNotFoundError("many\nlines")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(HubError, match=f"^owner/name is not an existing folder, .*{reason}$"):
        resolve_folder("owner/name")


def test_an_impossible_name_is_one_sentence() -> None:
    with pytest.raises(HubError, match=r"^not a name is neither an existing folder nor a possible owner/name"):
        resolve_folder("not a name")


def test_whatever_the_client_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(HubError, match=r"^owner/name could not be fetched from the hub: first line$"):
        resolve_folder("owner/name")
