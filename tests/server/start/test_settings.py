"""The environment: values, slips, and what the workers are told."""

import os
from pathlib import Path

import pytest

from server.errors import StartupError
from server.start.settings import read_settings
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.policy import Bounds


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("MAVIS_")]:
        monkeypatch.delenv(name)


def test_without_settings_the_guide_has_its_own_defaults() -> None:
    config = read_settings(os.environ).guide_config([Path("/values/a")], "base", "main")
    assert config == GuideConfig(checkpoints=("/values/a",), base_model="base", base_revision="main")


def test_the_environment_reaches_the_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAVIS_DEFAULT_WEIGHTS", '{"positivity": 0.5}')
    monkeypatch.setenv("MAVIS_BOUNDS", '{"positivity": [0, 1.5]}')
    monkeypatch.setenv("MAVIS_DEFAULT_BETA", "0.5")
    monkeypatch.setenv("MAVIS_MAX_CANDIDATES", "100")
    monkeypatch.setenv("MAVIS_VALUE_CACHE_GIB", "2.5")
    config = read_settings(os.environ).guide_config([], "base")
    assert config.default_weights == {"positivity": 0.5}
    assert config.bounds == {"positivity": Bounds(0, 1.5)}
    assert (config.default_beta, config.max_candidates, config.cache_gib) == (0.5, 100, 2.5)
    assert GuideConfig.from_wire(config.to_wire()) == config


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("MAVIS_DEFAULT_WEIGHTS", "positivity=1", r"MAVIS_DEFAULT_WEIGHTS: got 'positivity=1', allowed is a JSON"),
        ("MAVIS_DEFAULT_WEIGHTS", '{"a": "x"}', r"MAVIS_DEFAULT_WEIGHTS\.a: .*got 'x'"),
        ("MAVIS_DEFAULT_WEIGHTS", '{"a": 1e999}', r"MAVIS_DEFAULT_WEIGHTS\.a: .*finite"),
        ("MAVIS_BOUNDS", '{"a": [1]}', r"MAVIS_BOUNDS\.a"),
        ("MAVIS_VALUE_DTYPE", "int8", r"MAVIS_VALUE_DTYPE: .*bfloat16.*got 'int8'"),
        ("MAVIS_VALUE_CACHE_GIB", "0", r"MAVIS_VALUE_CACHE_GIB: .*greater than 0"),
        ("MAVIS_MAX_CANDIDATES", "many", r"MAVIS_MAX_CANDIDATES: .*got 'many'"),
        ("MAVIS_DEFAULT_WEIGHT", "{}", r"MAVIS_DEFAULT_WEIGHT is unknown; did you mean MAVIS_DEFAULT_WEIGHTS"),
    ],
)
def test_a_wrong_setting_is_one_sentence(monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError, match=sentence) as caught:
        read_settings(os.environ)
    assert "\n" not in str(caught.value)


def test_a_secret_stands_in_no_error_and_what_goes_together_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("MAVIS_ADMIN_KEY", "hush")
    monkeypatch.setenv("MAVIS_VALUES_ROOT", str(tmp_path))
    with pytest.raises(StartupError, match=r"^MAVIS_ADMIN_KEY: .*16") as caught:
        read_settings(os.environ)
    assert "hush" not in str(caught.value)
    monkeypatch.setenv("MAVIS_ADMIN_KEY", "hush-hush-hush-hush")
    read_settings(os.environ)
    monkeypatch.setenv("MAVIS_VALUES_ROOT", str(tmp_path / "missing"))
    with pytest.raises(StartupError, match=r"^MAVIS_VALUES_ROOT: .*missing is no folder$"):
        read_settings(os.environ)
    monkeypatch.delenv("MAVIS_VALUES_ROOT")
    with pytest.raises(StartupError, match=r"^MAVIS_ADMIN_KEY and MAVIS_VALUES_ROOT go together") as caught:
        read_settings(os.environ)
    assert "hush" not in str(caught.value)


def test_other_peoples_variables_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAVIS_BASE_URL", "http://127.0.0.1:8000")
    read_settings(os.environ)
