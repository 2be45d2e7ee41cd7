"""The catalogue: which objectives this server offers, in what bounds, and what a request makes of them.

Runs in the HTTP process. No torch, no vLLM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, get_args

from server.errors import FieldError
from server.requests.keys import ApiKey
from server.requests.profiles import Profile, ProfileSet
from server.requests.schedule import check_choices, read_schedule
from server.requests.weights import no_giant
from valuemodels.contract.errors import GuidanceError
from valuemodels.contract.evaluation import read_evaluation
from valuemodels.contract.guidance import Guidance, ResolvedGuidance, TraceDetail
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.offers import objective_owners, offered_scorings
from valuemodels.contract.policy import GuidancePolicy, KeyRules
from valuemodels.contract.value_config import ObjectiveConfig, ValueConfig

NULLABLE = frozenset({"kl_budget"})
_NO_PROFILES = ProfileSet({})
_TRACES: dict[bool | str, TraceDetail] = {False: "totals", True: "values", "candidates": "candidates"}


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One objective and the checkpoint it comes from."""

    objective: ObjectiveConfig
    checkpoint: ValueConfig


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """What a request asked for, checked, beside what holds for it.

    Attributes:
        catalogue: that it was checked against.
        guidance: goes into the request's sampling parameters.
        resolved: with the operator's defaults filled in.
        must_travel: without the guidance the worker would do something else.
    """

    catalogue: "Catalogue"
    guidance: Guidance
    resolved: ResolvedGuidance
    must_travel: bool

    @property
    def tilts(self) -> bool:
        """Whether anything of it is tilted, if nobody changes it."""
        return self.resolved.has_schedule or not self.resolved.is_plain

    def of_choices(self, n: int, prompts: int) -> "CheckedRequest":
        """The same, of a request with so many choices of each of its prompts.

        Raises:
            FieldError: its schedule is about a choice beyond them.
        """
        check_choices(self.guidance.schedule, n * prompts)
        return replace(self, guidance=replace(self.guidance, n=n))


class Catalogue:
    """The objectives of all loaded checkpoints under the operator's policy."""

    def __init__(
        self,
        config: GuideConfig,
        checkpoints: Sequence[ValueConfig],
        profiles: ProfileSet = _NO_PROFILES,
        key_profiles: Mapping[str, str] | None = None,
        offer: int = 0,
        *,
        may_be_replaced: bool = False,
    ) -> None:
        """
        Args:
            checkpoints: the `value_config.json` of `config.checkpoints`, in this order.
            key_profiles: API key -> the profile of its requests that name none.
            offer: number by which the workers know these objectives.
            may_be_replaced: another offer may take its place: then every request that needs values says which is its.

        Raises:
            CheckpointError: two checkpoints have the same objective, or an evaluation is none.
            GuidanceError: the operator's defaults, bounds or profiles do not fit.
        """
        self.offer = offer
        self._may_be_replaced = may_be_replaced
        owners = objective_owners(checkpoints)
        self.policy: GuidancePolicy = config.policy(tuple(owners), offered_scorings(checkpoints))
        self.entries = {
            objective.name: CatalogueEntry(objective, checkpoint)
            for checkpoint in checkpoints
            for objective in checkpoint.objectives
        }
        self.checkpoint = "+".join(checkpoint.id for checkpoint in checkpoints)
        folders = zip(config.checkpoints, checkpoints, strict=False)
        found = (read_evaluation(folder, checkpoint.id) for folder, checkpoint in folders)
        self._evaluations = [evaluation for evaluation in found if evaluation is not None]
        self._plain_without_guidance = self.policy.resolve(None).is_plain
        self._aborts = "abort" in self.policy.on_value_error.values()
        self._profiles: dict[str, Profile] = {}
        self._key_profiles = dict(key_profiles or {})
        self._take_profiles(profiles)
        self._check_key_profiles()

    @property
    def profiles(self) -> dict[str, dict[str, Any]]:
        """Name -> the fields that `profile` stands for."""
        return {name: profile.fields for name, profile in self._profiles.items()}

    def listed_profiles(self, key: ApiKey | None = None) -> dict[str, Any]:
        """The body of `GET /v1/profiles`, as it holds under an API key."""
        own = None if key is None else self._key_profiles.get(key.name)
        data = [profile.listed(name) | {"is_default": name == own} for name, profile in self._profiles.items()]
        return {"object": "list", "data": data}

    def listing(self, key: ApiKey | None = None) -> dict[str, Any]:
        """The body of `GET /v1/objectives`, as it holds under an API key."""
        policy = self.policy.of(None if key is None else key.name)
        return {
            "object": "list",
            "data": [self._listed(name, entry, policy) for name, entry in self.entries.items()],
            "profiles": self.profiles,
        }

    def evaluations(self) -> dict[str, Any]:
        """The body of `GET /v1/evaluations`."""
        return {"object": "list", "data": [each.model_dump(mode="json") for each in self._evaluations]}

    def _listed(self, name: str, entry: CatalogueEntry, policy: GuidancePolicy) -> dict[str, Any]:
        bounds = policy.bounds_of(name)
        probe = entry.checkpoint.probe
        return {
            "id": name,
            "object": "objective",
            "description": entry.objective.description,
            "default": policy.default_of(name),
            "bounds": [bounds.low, bounds.high],
            "floor": policy.floors.get(name),
            "scorings": list(self.policy.scorings),
            "checkpoint": entry.checkpoint.id,
            "reward": entry.objective.reward,
            "metrics": dict(entry.objective.metrics),
            "fast_metrics": None if probe is None else dict(probe.metrics.get(name, {})),
        }

    def silent(self, key: ApiKey | None, generation_id: str, *, is_salted: bool = False) -> CheckedRequest:
        """What holds for a request that has none of our fields, whatever its route, but maybe a `cache_salt`."""
        checked = self.check({}, generation_id, key)
        has_own = key is not None and (key.rules is not None or key.profile is not None)
        depends = self._aborts or self._may_be_replaced or is_salted
        must_travel = has_own or (depends and checked.resolved.needs_values)
        return replace(checked, must_travel=must_travel)

    def check(self, fields: Mapping[str, Any], generation_id: str, key: ApiKey | None = None) -> CheckedRequest:
        """Make a checked `Guidance` of the fields a client wrote.

        Args:
            fields: names of `GuidanceFields` -> the JSON value as it came.
            key: that the request came with.

        Raises:
            FieldError: naming the field, its value and what is allowed.
        """
        for name, value in fields.items():
            if value is None and name not in NULLABLE:
                raise FieldError(name, None, "a value, or leaving the field out")
        own_profile = None if key is None else self._key_profiles.get(key.name)
        if (profile := fields.get("profile", own_profile)) is not None:
            fields = self._with_profile(profile, fields)
        guidance = Guidance(
            generation_id=generation_id,
            weights=self._weights(fields.get("objective_weights", {})),
            beta=no_giant(fields.get("beta")),
            candidates=no_giant(fields.get("candidates")),
            candidate_min_p=no_giant(fields.get("candidate_min_p")),
            kl_budget=no_giant(fields.get("kl_budget")),
            scoring=fields.get("scoring"),
            trace=_trace(fields.get("return_values", False)),
            schedule=read_schedule(fields.get("schedule", []), tuple(self.entries)),
            key=key.name if key is not None and key.rules is not None else None,
            offer=self.offer,
        )
        try:
            self.policy.check(guidance)
        except GuidanceError as error:
            raise FieldError(error.field, error.value, error.allowed) from None
        resolved = self.policy.resolve(guidance)
        must_travel = resolved.needs_values or not self._plain_without_guidance or guidance.key is not None
        return CheckedRequest(self, guidance, resolved, must_travel)

    def _with_profile(self, name: object, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The profile's fields under the request's own, which win; weights one by one."""
        if not isinstance(name, str) or name not in self._profiles:
            known = "one of " + ", ".join(self._profiles) if self._profiles else "leaving the field out: there are none"
            raise FieldError("profile", name, known)
        profile, own = self._profiles[name].fields, fields.get("objective_weights", {})
        weights = own if not isinstance(own, dict) else {**profile.get("objective_weights", {}), **own}
        return {**profile, **fields, "objective_weights": weights}

    def _take_profiles(self, profiles: ProfileSet) -> None:
        for name, profile in profiles.by_name.items():
            try:
                # What holds for whoever names it can be about no choice but the one that all have.
                check_choices(self.check(profile.fields, "profile").guidance.schedule, 0)
            except FieldError as error:
                if profiles.are_shipped:
                    continue
                raise GuidanceError(f"profiles.{name}.{error.param}", error.value, error.allowed) from None
            self._profiles[name] = profile

    def _check_key_profiles(self) -> None:
        for name, profile in self._key_profiles.items():
            rules = KeyRules() if name in self.policy.by_key else None
            try:  # a profile that everybody may name can be beyond the bounds of one key
                self.check({}, "profile", ApiKey(name, b"", profile=profile, rules=rules))
            except FieldError as error:
                where = f"keys.{name}.profile" + ("" if error.param == "profile" else f" ({profile}).{error.param}")
                raise GuidanceError(where, error.value, error.allowed) from None

    def _weights(self, value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            names = ", ".join(self.entries)
            raise FieldError("objective_weights", value, f"an object from objective to number; objectives: {names}")
        return {name: no_giant(weight) for name, weight in value.items()}


def _trace(value: Any) -> TraceDetail:
    if isinstance(value, bool | str) and value in _TRACES:
        return _TRACES[value]
    raise FieldError("return_values", value, 'false, true or "candidates"')


assert set(_TRACES.values()) == set(get_args(TraceDetail)), f"return_values misses a detail of {TraceDetail}"
