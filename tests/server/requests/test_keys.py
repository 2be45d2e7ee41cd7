"""API keys: read from a file, found by their digest, never shown; and what holds for their requests."""

import hashlib
from pathlib import Path
from typing import Any

import httpx
import pytest
from limits import parse_many

from server.errors import StartupError
from server.requests.keys import ApiKey, digest_of, keys_of
from tests.server.kit import FakeEngine, api_keys, as_key, catalogue, make_app
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.guidance import EXTRA_ARGS_KEY
from valuemodels.contract.policy import Bounds, KeyRules

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
FILE = f"""
[[keys]]
name = "kids"
sha256 = "{hashlib.sha256(b"kids-secret").hexdigest()}"
rate = "2/second;60/minute"
concurrent = 4
profile = "gentle"
default_weights = {{ positivity = 0.5 }}
bounds = {{ positivity = [0, 1] }}
floors = {{ simplicity = 0.25 }}

[[keys]]
name = "ops"
key = "ops-secret"
"""


def write(folder: Path, text: str, name: str = "keys.toml") -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_keys_of_flags_and_of_a_file_stand_side_by_side(tmp_path: Path) -> None:
    keys = keys_of(["from a flag", "from a flag"], write(tmp_path, FILE))
    kids, ops, flag = (keys.find(secret) for secret in ("kids-secret", "ops-secret", "from a flag"))
    assert len(keys) == 3 and kids is not None and ops is not None and flag is not None
    assert [str(rate) for rate in kids.rates] == ["2 per 1 second", "60 per 1 minute"] and kids.concurrent == 4
    assert kids.rules == KeyRules({"positivity": 0.5}, {"positivity": Bounds(0, 1)}, {"simplicity": 0.25})
    assert (ops.name, ops.rules, ops.rates) == ("ops", None, ()) and flag.name.startswith("key-")
    assert keys.profiles == {"kids": "gentle"} and keys.rules.keys() == {"kids"}
    for stranger in (None, "", "kids-secre", "kids-secret ", "ops", "ä"):
        assert keys.find(stranger) is None
    assert "secret" not in repr(keys) + repr(kids)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("keys = 1", "keys: Input should be a valid list"),
        ("[[keys]]\nname = 'a'", "give either key or sha256"),
        ("[[keys]]\nname = 'a'\nkey = 'long enough'\nsha256 = 'b'", "give either key or sha256"),
        ("[[keys]]\nname = 'a'\nsha256 = 'b'", "64 hexadecimal digits"),
        ("[[keys]]\nname = 'a'\nkey = 'short'", "at least 8 characters"),
        ("[[keys]]\nname = 'a b'\nkey = 'long enough'", "name: Value error, 1 to 64 letters"),
        ("[[keys]]\nname = 'a'\nkey = 'long enough'\nrate = 'often'", "rate"),
        ("[[keys]]\nname = 'a'\nkey = 'long enough'\nconcurrent = 0", "concurrent"),
        ("[[keys]]\nname = 'a'\nkey = 'long enough'\nrat = '1/second'", "rat: Extra inputs"),
        ("[[keys]]\nname = 'a'\nkey = 'long enough'\nfloors = { a = nan }", "floors.a"),
        ("[[keys]]\nname = 'a'\nkey = 'long enough'\n" * 2, "a stands there twice"),
        ("[[keys", "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_sentence_that_shows_no_secret(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(StartupError, match=complaint) as refused:
        keys_of((), write(tmp_path, text))
    assert "long enough" not in str(refused.value) and "short" not in str(refused.value).replace("at least", "")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="MAVIS_KEYS_FILE"):
        keys_of((), tmp_path / "none.toml")


RULES = KeyRules(default_weights={"simplicity": 0.5}, bounds={"positivity": Bounds(0, 1)})


def kids(**more: Any) -> Any:
    offered = catalogue(keys={"kids": RULES})
    return {"offered": offered, "keys": api_keys(kids={"rules": RULES, **more}, ops={})}


async def asked_of(engine: FakeEngine, key: str, **options: Any) -> httpx.Response:
    app = make_app(engine, **options.pop("setup"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        return await http.post("/v1/chat/completions", json={**CHAT, **options}, headers=as_key(key))


async def test_a_keys_rules_hold_for_its_requests_alone(engine: FakeEngine) -> None:
    weights = {"objective_weights": {"positivity": 1.5}}
    refused = await asked_of(engine, "kids", setup=kids(), **weights)
    assert refused.status_code == 400 and "0 to 1" in refused.json()["error"]["message"]
    assert (await asked_of(engine, "ops", setup=kids(), **weights)).status_code == 200


async def test_a_silent_request_under_a_key_with_rules_is_guided_by_them(engine: FakeEngine) -> None:
    answer = await asked_of(engine, "kids", setup=kids())
    assert answer.json()["choices"][0]["mavis"]["objective_weights"] == {"positivity": 0.0, "simplicity": 0.5}
    assert engine.params[-1].extra_args[EXTRA_ARGS_KEY].key == "kids", "the worker holds it to the same rules"
    plain = await asked_of(engine, "ops", setup=kids())
    assert "mavis" not in plain.json()["choices"][0]


async def test_the_catalogue_tells_a_key_its_own_bounds(engine: FakeEngine) -> None:
    app = make_app(engine, **kids())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test") as http:
        listed = {
            key: (await http.get("/v1/objectives", headers=as_key(key))).json()["data"][0] for key in ("kids", "ops")
        }
    assert listed["kids"]["bounds"] == [0, 1] and listed["ops"]["bounds"] == [-2, 2]


PROFILES = {"gentle": {"objective_weights": {"positivity": 0.5, "simplicity": -1.0}, "beta": 0.5}}


async def test_a_profile_stands_for_fields_and_the_requests_own_win(engine: FakeEngine) -> None:
    offered = catalogue(profiles=PROFILES)
    answer = await asked_of(
        engine, "ops", setup={"offered": offered}, profile="gentle", objective_weights={"simplicity": 1}
    )
    block = answer.json()["choices"][0]["mavis"]
    assert (block["objective_weights"], block["beta"]) == ({"positivity": 0.5, "simplicity": 1.0}, 0.5)
    unknown = await asked_of(engine, "ops", setup={"offered": offered}, profile="rough")
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "profile")
    assert "one of gentle" in unknown.json()["error"]["message"]


async def test_a_keys_profile_holds_where_a_request_names_none(engine: FakeEngine) -> None:
    setup = {
        "offered": catalogue(profiles=PROFILES, key_profiles={"kids": "gentle"}),
        "keys": api_keys(kids={"profile": "gentle"}),
    }
    answer = await asked_of(engine, "kids", setup=setup)
    assert answer.json()["choices"][0]["mavis"]["beta"] == 0.5


def test_a_keys_profile_has_to_be_there_and_within_its_bounds() -> None:
    with pytest.raises(GuidanceError, match=r"keys\.kids\.profile: got 'rough', allowed is one of gentle"):
        catalogue(profiles=PROFILES, key_profiles={"kids": "rough"})
    narrow = KeyRules(bounds={"positivity": Bounds(0, 0.25)})
    with pytest.raises(GuidanceError, match=r"keys\.kids\.profile \(gentle\)\.objective_weights\.positivity: got 0\.5"):
        catalogue(profiles=PROFILES, key_profiles={"kids": "gentle"}, keys={"kids": narrow})
    with pytest.raises(GuidanceError, match=r"profiles\.wild\.beta"):
        catalogue(profiles={"wild": {"beta": 1e9}})


def test_a_key_is_shared_by_several_processes_so_that_together_they_let_through_no_less() -> None:
    key = ApiKey("a", digest_of("secret-a"), tuple(parse_many("10/minute; 100/hour")), concurrent=4)
    share = key.shared_by(3)
    assert [(rate.amount, rate.get_expiry()) for rate in share.rates] == [(4, 60), (34, 3600)]
    assert share.concurrent == 2
    assert ApiKey("b", digest_of("secret-b")).shared_by(3) == ApiKey("b", digest_of("secret-b"))
