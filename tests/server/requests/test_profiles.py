"""Profiles: their files, what is offered where, and what a key sees of them."""

from pathlib import Path

import httpx
import pytest

from server.api.offer_schema import ProfileList
from server.errors import StartupError
from server.requests.catalogue import Catalogue
from server.requests.profiles import Profile, ProfileSet, read_profiles, shipped_profiles
from server.start.settings import read_settings
from tests.server.kit import FakeEngine, api_keys, as_key, catalogue, make_app, value_config
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.policy import Bounds
from valuemodels.contract.value_config import read_value_config
from valuemodels.sources.embedded import EMBEDDED_VALUES

TOML = """
[gentle]
title = "Gentle"
objective_weights = { positivity = 0.5 }
kl_budget = 0.3
schedule = [{ from_token = 60, beta = 0.5 }]
"""


def test_a_file_of_profiles_is_read(tmp_path: Path) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text(TOML)
    assert read_profiles(path)["gentle"].fields == {
        "objective_weights": {"positivity": 0.5},
        "kl_budget": 0.3,
        "schedule": [{"from_token": 60, "beta": 0.5}],
    }
    (tmp_path / "profiles.json").write_text('{"gentle": {"objective_weights": {"positivity": 0.5}}}')
    assert read_profiles(tmp_path / "profiles.json")["gentle"].objective_weights == {"positivity": 0.5}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("[gentle", "cannot be read"),
        ("[gentle]\nweights = {}", r"gentle\.weights: Extra inputs"),
        ('[gentle]\nobjective_weights = { positivity = "much" }', r"gentle\.objective_weights\.positivity"),
        ("[gentle]\nbeta = nan", r"gentle\.beta: .*finite"),
    ],
)
def test_what_cannot_be_used_stops_the_start_by_its_name(tmp_path: Path, content: str, sentence: str) -> None:
    path = tmp_path / "profiles.toml"
    path.write_text(content)
    with pytest.raises(StartupError, match=sentence):
        read_profiles(path)
    with pytest.raises(StartupError, match="cannot be read"):
        read_profiles(tmp_path / "none.toml")


def test_shipped_profiles_stand_where_the_operator_has_none(tmp_path: Path) -> None:
    embedded = [str(EMBEDDED_VALUES)]
    shipped = read_settings({}).all_profiles(embedded)
    assert shipped.are_shipped and {"sunny", "grumpy", "change_of_heart"} <= shipped.by_name.keys()
    assert read_settings({}).all_profiles(["/values/others"]).by_name == {}
    (tmp_path / "profiles.toml").write_text(TOML)
    own = read_settings({}, profiles_file=tmp_path / "profiles.toml", profiles={"mine": {"beta": 2}})
    assert own.all_profiles(embedded).by_name.keys() == {"gentle", "mine"}


def test_shipped_profiles_fit_what_they_ship_for() -> None:
    shipped = shipped_profiles([str(EMBEDDED_VALUES)])
    config = GuideConfig(checkpoints=(str(EMBEDDED_VALUES),), base_model="base")
    offered = Catalogue(config, [read_value_config(EMBEDDED_VALUES)], ProfileSet(shipped), None)
    assert len(offered.profiles) == len(shipped) == 8
    assert all(profile.title and profile.description for profile in shipped.values())


def test_a_shipped_profile_beyond_the_operators_bounds_is_left_out() -> None:
    """Nobody here has written it, so it must not stop the start either."""
    config = GuideConfig(checkpoints=(), base_model="base", bounds={"positivity": Bounds(-0.5, 0.5)})
    profiles = {
        "wild": Profile(objective_weights={"positivity": 1.0}), "calm": Profile(objective_weights={"positivity": 0.2})
    }  # fmt: skip
    offered = Catalogue(config, [value_config("positivity")], ProfileSet(profiles, are_shipped=True))
    assert offered.profiles.keys() == {"calm"}


async def test_a_key_is_told_which_profile_is_its_own(engine: FakeEngine) -> None:
    offered = catalogue(
        profiles={"gentle": {"title": "Gentle", "objective_weights": {"positivity": 0.5}}, "bold": {"beta": 2}},
        key_profiles={"kids": "gentle"},
    )
    app = make_app(engine, offered=offered, keys=api_keys(kids={"profile": "gentle"}, ops={}))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        listed = {key: (await http.get("/v1/profiles", headers=as_key(key))).json() for key in ("kids", "ops")}
        assert (await http.get("/v1/profiles")).status_code == 401
    for body in listed.values():
        ProfileList.model_validate(body)
    assert [each["is_default"] for each in listed["kids"]["data"]] == [True, False]
    assert [each["is_default"] for each in listed["ops"]["data"]] == [False, False]
    assert listed["ops"]["data"][0]["title"] == "Gentle" and listed["ops"]["data"][1]["beta"] == 2
