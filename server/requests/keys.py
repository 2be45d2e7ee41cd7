"""API keys: from flags, from the environment, or from a file that gives each a name and rules of its own.

    [[keys]]                                # keys.toml; a JSON file of the same shape will do as well
    name = "kids"
    sha256 = "9f86d08..."                   # of the key, in hex; or key = "the key itself"
    rate = "60/minute"                      # requests that generate; also "2/second;100/hour"
    concurrent = 4                          # of them at once
    profile = "gentle"                      # where a request names none
    default_weights = { positivity = 0.5 }
    bounds = { positivity = [0, 1] }
    floors = { harmlessness = 0.5 }

A key is compared by its digest, in constant time. Runs in the HTTP process. No torch, no vLLM.
"""

import hashlib
import json
import math
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from limits import RateLimitItem, parse_many
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from server.errors import StartupError
from valuemodels.contract.errors import first_line, shown
from valuemodels.contract.policy import Bounds, KeyRules

Number = Annotated[float, Field(allow_inf_nan=False)]
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key.

    Attributes:
        name: for logs and metrics; of a key without a name, a prefix of its digest.
        rates: requests that generate, each of so many in a time; none is any number.
        concurrent: of them at once; None is any number.
        profile: where a request names none.
        rules: what holds for its requests alone; None: what holds for all.
    """

    name: str
    digest: bytes = field(repr=False)
    rates: tuple[RateLimitItem, ...] = ()
    concurrent: int | None = None
    profile: str | None = None
    rules: KeyRules | None = None

    def shared_by(self, processes: int) -> "ApiKey":
        """What is left of it to each of so many processes, which count for themselves."""
        rates = tuple(type(rate)(math.ceil(rate.amount / processes), rate.multiples) for rate in self.rates)
        at_once = None if self.concurrent is None else math.ceil(self.concurrent / processes)
        return replace(self, rates=rates, concurrent=at_once)


current_key: ContextVar[ApiKey | None] = ContextVar("current_key", default=None)
"""The key of the request that is being served; None where the server wants none."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    key: str | None = None
    sha256: str | None = None
    rate: str | None = None
    concurrent: Annotated[int, Field(ge=1)] | None = None
    profile: str | None = None
    default_weights: dict[str, Number] = {}
    bounds: dict[str, tuple[Number, Number]] = {}
    floors: dict[str, Number] = {}

    @field_validator("name")
    @classmethod
    def _printable(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError("1 to 64 letters, digits, '_', '.' or '-'")
        return name

    @field_validator("rate")
    @classmethod
    def _readable(cls, rate: str | None) -> str | None:
        if rate is not None:
            parse_many(rate)
        return rate

    @model_validator(mode="after")
    def _one_secret(self) -> "_Entry":
        if (self.key is None) == (self.sha256 is None):
            raise ValueError("give either key or sha256")
        if self.sha256 is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", self.sha256):
            raise ValueError("sha256 is 64 hexadecimal digits")
        if self.key is not None and len(self.key) < 8:
            raise ValueError("a key has at least 8 characters")
        return self

    def api_key(self) -> ApiKey:
        rules = KeyRules(self.default_weights, {name: Bounds(*pair) for name, pair in self.bounds.items()}, self.floors)
        return ApiKey(
            name=self.name,
            digest=digest_of(self.key) if self.key is not None else bytes.fromhex(self.sha256 or ""),
            rates=() if self.rate is None else tuple(parse_many(self.rate)),
            concurrent=self.concurrent,
            profile=self.profile,
            rules=None if rules == KeyRules() else rules,
        )


class _KeysFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    keys: list[_Entry]


class ApiKeys:
    """All keys that the server takes; none at all means that it wants none."""

    def __init__(self, keys: Iterable[ApiKey] = ()) -> None:
        """
        Raises:
            StartupError: two of them have one name, or are the same.
        """
        self._keys = list(keys)
        for what in ("name", "digest"):
            seen = [getattr(key, what) for key in self._keys]
            if repeated := [key.name for key in self._keys if seen.count(getattr(key, what)) > 1]:
                raise StartupError(f"API keys: {repeated[0]} stands there twice")

    def __len__(self) -> int:
        return len(self._keys)

    @property
    def rules(self) -> dict[str, KeyRules]:
        """Of the keys that have any, by name."""
        return {key.name: key.rules for key in self._keys if key.rules is not None}

    @property
    def profiles(self) -> dict[str, str]:
        """Key -> its profile, for those that have one."""
        return {key.name: key.profile for key in self._keys if key.profile is not None}

    def shared_by(self, processes: int) -> "ApiKeys":
        """See `ApiKey`."""
        return ApiKeys(key.shared_by(processes) for key in self._keys)

    def find(self, secret: str | None) -> ApiKey | None:
        """The key that this is. Looks at all of them, so that the time tells nothing."""
        if secret is None:
            return None
        digest, found = digest_of(secret), None
        for key in self._keys:
            if secrets.compare_digest(key.digest, digest):
                found = key
        return found


def keys_of(secrets_given: Iterable[str], file: Path | None) -> ApiKeys:
    """The keys of flags and environment, which have neither name nor rules, and those of a file.

    Raises:
        StartupError: the file cannot be read, or is wrong.
    """
    plain = [ApiKey(f"key-{digest_of(secret).hex()[:8]}", digest_of(secret)) for secret in dict.fromkeys(secrets_given)]
    return ApiKeys([*plain, *([] if file is None else _read(file))])


def _read(file: Path) -> list[ApiKey]:
    try:
        text = file.read_text(encoding="utf-8")
        content: Any = json.loads(text) if file.suffix == ".json" else tomllib.loads(text)
        return [entry.api_key() for entry in _KeysFile.model_validate(content).keys]
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # the input may be a secret
        where = ".".join(map(str, first["loc"]))
        raise StartupError(f"MAVIS_KEYS_FILE: {file}: {where}: {first['msg']}") from None
    except (OSError, ValueError) as error:
        raise StartupError(f"MAVIS_KEYS_FILE: {shown(str(file))} cannot be read: {first_line(error)}") from None


def secret_of(headers: Mapping[str, str]) -> str | None:
    """The key that a request carries: as OpenAI's clients send it, or as Anthropic's do."""
    scheme, _, key = headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key:
        return key
    return headers.get("X-Api-Key") or None


def digest_of(secret: str) -> bytes:
    """SHA-256."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).digest()
