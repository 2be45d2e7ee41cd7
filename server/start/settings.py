"""What the operator sets through the environment: `MAVIS_*`, read here and nowhere else, once, at start.

    MAVIS_DEFAULT_WEIGHTS='{"positivity": 0.5}'  MAVIS_BOUNDS='{"positivity": [0, 1]}'  mavis serve

Runs in the process that starts the server. No torch, no vLLM.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from server.errors import StartupError
from server.gate.gate import GateLimits
from server.requests.admission import Limits
from server.requests.profiles import Profile, ProfileSet, read_profiles, shipped_profiles
from valuemodels.contract.errors import GuidanceError, MavisError, shown
from valuemodels.contract.guidance import Scoring
from valuemodels.contract.guide_config import DEFAULT_CACHE_GIB, DEFAULT_HYBRID_CANDIDATES, DType, GuideConfig
from valuemodels.contract.policy import (
    DEFAULT_BETA,
    DEFAULT_BETA_BOUNDS,
    DEFAULT_CANDIDATES,
    DEFAULT_MAX_CANDIDATES,
    Bounds,
    KeyRules,
    OnValueError,
)
from valuemodels.sources.cpu import serves_on_cpu

PREFIX = "MAVIS_"

Number = Annotated[float, Field(allow_inf_nan=False)]


Count = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Settings(BaseSettings):
    """The operator's settings.

    Attributes:
        default_weights: objective -> weight for requests that do not name it; 0 for those left out.
        bounds: objective -> [low, high] that a request's weight must lie in; [-2, 2] for those left out.
        floors: objective -> strength (weight x beta) that nothing a client says takes it below.
        beta_bounds: [low, high] that a request's beta must lie in.
        on_value_error: objective -> "abort" where a request must not go on without its values; "base" for others.
        default_beta, default_candidates, default_candidate_min_p: for requests that do not say.
        max_candidates: the most a request may ask for.
        default_scoring: for requests that do not say; None: fast where it is loaded, else the first that is.
        scorings: which of the offered scorings are loaded; None: all. ["fast"] needs no memory for value models.
        hybrid_candidates: how many candidates hybrid scoring has read at most, at each token.
        value_dtype: arithmetic of the value models; "auto" picks what the machine is good at.
        value_cache_gib: memory of the value models' KV cache.
        profiles: name -> fields of a request: what `profile` may name; profiles_file: a file of more of them. See
            `server.requests.profiles`.
        keys_file: API keys with names and rules of their own; see `server.requests.keys`.
        admin_key: opens `/v1/checkpoints`, by which others are loaded from folders under `values_root`; both or none.
        audit_log: file of the audit log; None: with our other messages.
        max_n, max_choices, max_weights, max_traced, max_exact_tokens: of one request; see `server.requests.admission`.
        max_header_bytes, max_body_bytes, max_waiting, max_wait_s: see `server.gate.gate`.
        stall_s: after how long without an answer from the workers the server is not ready.
        drain_s: how long running requests may take to end once the server is told to stop.
        cache_dir: where the embedded base model is kept; None: the user's cache folder.
        log_level: of our own messages; vLLM has `VLLM_LOGGING_LEVEL`.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    default_weights: dict[str, Number] = {}
    bounds: dict[str, tuple[Number, Number]] = {}
    floors: dict[str, Number] = {}
    beta_bounds: tuple[Number, Number] = (DEFAULT_BETA_BOUNDS.low, DEFAULT_BETA_BOUNDS.high)
    on_value_error: dict[str, OnValueError] = {}
    default_beta: Number = DEFAULT_BETA
    default_candidates: int = DEFAULT_CANDIDATES
    default_candidate_min_p: Number = 0.0
    max_candidates: int = DEFAULT_MAX_CANDIDATES
    default_scoring: Scoring | None = None
    scorings: tuple[Scoring, ...] | None = None
    hybrid_candidates: Annotated[int, Field(ge=2)] = DEFAULT_HYBRID_CANDIDATES
    value_dtype: DType = "auto"
    value_cache_gib: Annotated[float, Field(gt=0, allow_inf_nan=False)] = DEFAULT_CACHE_GIB
    profiles: dict[str, Profile] = {}
    profiles_file: Path | None = None
    keys_file: Path | None = None
    admin_key: SecretStr | None = Field(default=None, min_length=16)
    values_root: Path | None = None
    audit_log: Path | None = None
    max_n: Count = 128
    max_choices: Count = 1024
    max_weights: Count = 64
    max_traced: Count = 500_000
    max_exact_tokens: Count = Field(default_factory=lambda: 8_192 if serves_on_cpu() else 262_144)
    max_header_bytes: Count = 32_768
    max_body_bytes: Count = 4_194_304
    max_waiting: Count = 1024
    max_wait_s: Seconds | None = None
    stall_s: Seconds = 15.0
    drain_s: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 20.0
    cache_dir: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _both_or_none(self) -> "Settings":
        if (self.admin_key is None) != (self.values_root is None):
            raise ValueError("MAVIS_ADMIN_KEY and MAVIS_VALUES_ROOT go together: set both, or none")
        if self.values_root is not None and not self.values_root.is_dir():
            raise ValueError(f"MAVIS_VALUES_ROOT: {self.values_root} is no folder")
        return self

    @property
    def limits(self) -> Limits:
        """On one request."""
        return Limits(self.max_n, self.max_choices, self.max_weights, self.max_traced, self.max_exact_tokens)

    @property
    def gate_limits(self) -> GateLimits:
        """On what reaches the routes at all."""
        return GateLimits(self.max_header_bytes, self.max_body_bytes, self.max_waiting, self.max_wait_s)

    def all_profiles(self, checkpoints: Sequence[str]) -> ProfileSet:
        """The operator's profiles; where there are none, those that ship for these checkpoints.

        Raises:
            StartupError: the file cannot be read.
        """
        of_file = {} if self.profiles_file is None else read_profiles(self.profiles_file)
        own = {**of_file, **self.profiles}
        return ProfileSet(own) if own else ProfileSet(shipped_profiles(checkpoints), are_shipped=True)

    def guide_config(
        self,
        checkpoints: Iterable[Path],
        base_model: str,
        base_revision: str | None = None,
        keys: Mapping[str, KeyRules] | None = None,
    ) -> GuideConfig:
        """What the workers are told, for these checkpoints over this base model."""
        return GuideConfig(
            checkpoints=tuple(str(folder) for folder in checkpoints),
            base_model=base_model,
            base_revision=base_revision,
            default_weights=self.default_weights,
            bounds={name: Bounds(low, high) for name, (low, high) in self.bounds.items()},
            floors=self.floors,
            beta_bounds=Bounds(*self.beta_bounds),
            on_value_error=self.on_value_error,
            keys=keys or {},
            default_beta=self.default_beta,
            default_candidates=self.default_candidates,
            default_candidate_min_p=self.default_candidate_min_p,
            max_candidates=self.max_candidates,
            default_scoring=self.default_scoring,
            scorings=self.scorings,
            hybrid_candidates=self.hybrid_candidates,
            value_dtype=self.value_dtype,
            cache_gib=self.value_cache_gib,
        )


def read_settings(environment: Mapping[str, str], **flags: Any) -> Settings:
    """Read the settings from the process's environment.

    Args:
        environment: `os.environ`, to find names spelled almost like ours; pydantic reads the values itself.
        flags: settings that the command line gives; they win.

    Raises:
        StartupError: a value is wrong, or a name is a near-miss of one of ours.
    """
    _refuse_near_misses(environment)
    try:
        return Settings(**flags)
    except SettingsError as error:
        field = re.search(r'field "(\w+)"', str(error))
        name = PREFIX + field[1].upper() if field else PREFIX + "*"
        raise StartupError(f"{name}: got {shown(environment.get(name))}, allowed is a JSON object") from None
    except ValidationError as error:
        raise StartupError(_in_a_sentence(error)) from None


def _in_a_sentence(error: ValidationError) -> str:
    """What is wrong first; never what a secret was."""
    first = error.errors()[0]
    if not first["loc"]:  # of several settings together
        return first["msg"].removeprefix("Value error, ")
    name, *keys = (str(part) for part in first["loc"])
    is_secret = Settings.model_fields[name].annotation == SecretStr | None
    got = "" if is_secret else f" (got {shown(first['input'])})"
    return f"{'.'.join([PREFIX + name.upper(), *keys])}: {first['msg']}{got}"


def _refuse_near_misses(environment: Mapping[str, str]) -> None:
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if not name.startswith(PREFIX) or name in known:
            continue
        if meant := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
            raise StartupError(f"the environment variable {name} is unknown; did you mean {meant[0]}?")


def as_startup_error(error: MavisError) -> StartupError:
    """An error of the policy in the operator's words, who wrote `MAVIS_DEFAULT_BETA` where the policy says `beta`."""
    if not isinstance(error, GuidanceError):
        return StartupError(str(error))
    head, *rest = error.field.split(".")
    if head == "keys":
        return StartupError(
            f"{PREFIX}KEYS_FILE: {'.'.join(rest)}: got {shown(error.value)}, allowed is {error.allowed}"
        )
    name = f"default_{head}" if head in ("beta", "candidates", "candidate_min_p", "scoring") else head
    where = ".".join([PREFIX + name.upper(), *rest])
    return StartupError(f"{where}: got {shown(error.value)}, allowed is {error.allowed}")
