"""Who may steer: claims, checks, and what is never shown."""

import pytest

from server.errors import FieldError, NotOwnerError
from server.generations.ownership import Ownership

TOKEN = "a token of my own"


def test_without_keys_the_token_owns() -> None:
    ownership = Ownership(by_api_key=False)
    owner = ownership.claim({"X-Generation-Token": TOKEN, "Authorization": "Bearer x"})
    assert owner.token == TOKEN
    ownership.check(owner, {"X-Generation-Token": TOKEN})
    for headers in ({}, {"X-Generation-Token": TOKEN + "!"}, {"Authorization": f"Bearer {TOKEN}"}):
        with pytest.raises(NotOwnerError, match="X-Generation-Token"):
            ownership.check(owner, headers)


def test_with_keys_the_key_owns_and_the_token_does_not() -> None:
    ownership = Ownership(by_api_key=True)
    owner = ownership.claim({"X-Generation-Token": TOKEN, "Authorization": "Bearer mine"})
    ownership.check(owner, {"Authorization": "bearer mine"})
    for headers in (
        {},
        {"Authorization": "Bearer yours"},
        {"Authorization": "Basic mine"},
        {"X-Generation-Token": TOKEN},
    ):
        with pytest.raises(NotOwnerError, match="API key"):
            ownership.check(owner, headers)


def test_a_generation_that_nobody_proved_to_own_is_nobodys() -> None:
    ownership = Ownership(by_api_key=True)
    owner = ownership.claim({})
    with pytest.raises(NotOwnerError):
        ownership.check(owner, {"Authorization": "Bearer "})


def test_tokens_that_the_server_makes_are_long_and_never_the_same() -> None:
    ownership = Ownership(by_api_key=False)
    made = {ownership.claim({}).token for _ in range(50)}
    assert len(made) == 50
    assert all(len(token) >= 32 for token in made)


@pytest.mark.parametrize("token", ["", "x" * 15, "x" * 129, "ä" * 20, "x" * 20 + "\n"])
def test_a_token_that_cannot_be_one_is_refused_and_not_repeated(token: str) -> None:
    with pytest.raises(FieldError, match="16 to 128 printable") as caught:
        Ownership(by_api_key=False).claim({"X-Generation-Token": token})
    assert not token or token not in str(caught.value)


def test_neither_logs_nor_reprs_hold_the_secret() -> None:
    ownership = Ownership(by_api_key=False)
    owner = ownership.claim({"X-Generation-Token": TOKEN})
    assert TOKEN not in repr(owner)
    assert owner.name == ownership.caller({"X-Generation-Token": TOKEN})
    assert owner.name.startswith("token:")
    assert len(owner.name) == len("token:") + 8
    assert ownership.caller({}) == "token:none"
