"""Ways of aligning a base to a mix that need fine-tuned experts: Rewarded Soups, MOD, and an expert of the mix itself.

Runs in the command's process. Imports torch when it samples.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from training.errors import RecipeError
from training.evaluate.mix import Mix
from training.experts.command import ADAPTER
from training.front.methods import Method, Setting, silent
from training.front.mixes import MixGroup
from training.rollouts.measured import Measured, measured
from training.rollouts.sampler import Condition, ReplySource
from training.rollouts.scored import scored_replies
from training.runs.run_dir import DONE_FILE, folder_hash, read_json


@dataclass(frozen=True, slots=True)
class Experts:
    """Of a folder that `mavis train expert` has written.

    Attributes:
        base: folder of the base; adapters: objective, or name of a mix's folder, -> folder of its expert.
    """

    base: str
    adapters: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path, base: str, groups: Sequence[MixGroup]) -> "Experts":
        """Those that the groups need.

        Raises:
            RecipeError: one of them is not there.
        """
        names = {name: name for group in groups for name in sorted(group.objectives)}
        names |= {group.mixes[0].folder_name: _asked(group.mixes[0]) for group in groups if group.is_one_mix}
        adapters = {name: folder / name / ADAPTER for name in names}
        missing = [name for name, path in adapters.items() if not (path / "adapter_config.json").is_file()]
        if missing:
            needed = "; ".join(f"mavis train expert {names[name]} --run-dir {folder}" for name in missing)
            raise RecipeError(f"experts: {folder} has none for {', '.join(missing)}; {needed} makes them")
        return cls(base, adapters)

    def soup(self, mix: Mix) -> ReplySource:
        """One policy, whose weights are mixed."""
        from training.experts.policy import MixedPolicy, rewarded_soup

        return MixedPolicy(self.base, [rewarded_soup(self.base, self.adapters, mix.shares)], [1.0])

    def mod(self, mix: Mix) -> ReplySource:
        """Several, whose distributions are."""
        from training.experts.policy import MixedPolicy, rewarded_soup

        models = [rewarded_soup(self.base, self.adapters, {name: 1.0}) for name in mix.names]
        return MixedPolicy(self.base, models, [mix.shares[name] for name in mix.names])

    def ideal(self, mix: Mix) -> ReplySource:
        """The one that was fitted to the mix itself."""
        from training.experts.policy import MixedPolicy, rewarded_soup

        expert = rewarded_soup(self.base, {"expert": self.adapters[mix.folder_name]}, {"expert": 1.0})
        return MixedPolicy(self.base, [expert], [1.0])

    def learned(self) -> dict[str, Any]:
        """Expert -> the figures that `mavis train expert` closed with; none of an adapter that it did not make."""
        closing = {name: folder.with_name(DONE_FILE) for name, folder in self.adapters.items()}
        return {name: read_json(path) for name, path in closing.items() if path.is_file()}

    def contents(self, names: Iterable[str]) -> dict[str, str]:
        """What the replies of some of them depend on."""
        return {name: folder_hash(self.adapters[name]) for name in sorted(names)}


def _asked(mix: Mix) -> str:
    """As the command wants it."""
    return ",".join(f"{name}={share:g}" for name, share in mix.shares.items())


@dataclass(frozen=True)
class OfExperts:
    """A way of having a mix written by experts.

    Attributes:
        label: names its folders; policy: what a mix is sampled from; needs: the experts that are in it.
        reads_with_each: whether all of them read a reply.
    """

    setting: Setting
    experts: Experts
    name: str
    label: str
    policy: Callable[[Mix], ReplySource]
    needs: Callable[[Mix], Collection[str]]
    reads_with_each: bool = False

    def passes(self, mix: Mix) -> float:
        return float(len(self.needs(mix))) if self.reads_with_each else 1.0

    def at(self, mix: Mix) -> Measured:
        plain = self.setting.sampler
        sampler = replace(
            plain,
            engine=lambda: self.policy(mix),
            sampled_from={**plain.sampled_from, "experts": self.experts.contents(self.needs(mix))},
            limits=replace(plain.limits, read_top=None),  # they tell it unasked
        )
        condition = Condition(f"{self.label}_{mix.folder_name}_x{self.setting.samples}", None, self.setting.samples)
        scored = scored_replies(sampler, self.setting.rewards, condition, silent)
        return measured(scored, sampler.tokens_per_s(condition))


def mixed_experts(setting: Setting, experts: Experts) -> list[Method]:
    """Rewarded Soups, which costs a reply what the base does, and MOD, which reads it with every expert."""
    return [
        OfExperts(setting, experts, "rewarded soup", "soup", experts.soup, lambda mix: mix.names),
        OfExperts(setting, experts, "MOD", "mod", experts.mod, lambda mix: mix.names, reads_with_each=True),
    ]


def expert_of_the_mix(setting: Setting, experts: Experts) -> Method:
    """What the others would be at best: a policy that was fitted to that very mix. Of groups of one mix alone."""
    return OfExperts(setting, experts, "expert of the mix", "ideal", experts.ideal, lambda mix: [mix.folder_name])
