"""Ways of aligning a base to a mix that need a fine-tuned expert for each objective: Rewarded Soups and MOD.

Runs in the command's process. Imports torch when it samples.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from training.errors import RecipeError
from training.experts.command import ADAPTER
from training.front.methods import Method, Setting, silent
from training.front.mixes import Mix, MixGroup
from training.rollouts.measured import Measured, measured
from training.rollouts.sampler import Condition, ReplySource
from training.rollouts.scored import scored_replies
from training.runs.run_dir import folder_hash


@dataclass(frozen=True, slots=True)
class Experts:
    """Of a folder that `mavis train expert` has written.

    Attributes:
        base: folder of the base; adapters: objective -> folder of its expert.
    """

    base: str
    adapters: Mapping[str, Path]

    @classmethod
    def of(cls, folder: Path, base: str, groups: Sequence[MixGroup]) -> "Experts":
        """Those that the groups need.

        Raises:
            RecipeError: one of them is not there.
        """
        names = sorted({name for group in groups for name in group.objectives})
        adapters = {name: folder / name / ADAPTER for name in names}
        missing = [name for name, path in adapters.items() if not (path / "adapter_config.json").is_file()]
        if missing:
            needed = "; ".join(f"mavis train expert {name} --run-dir {folder}" for name in missing)
            raise RecipeError(f"experts: {folder} has none for {', '.join(missing)}; {needed} makes them")
        return cls(base, adapters)

    def soup(self, mix: Mix) -> ReplySource:
        """One policy, whose weights are mixed."""
        from training.experts.policy import MixedPolicy, rewarded_soup

        return MixedPolicy(self.base, [rewarded_soup(self.base, self.adapters, mix.shares)], [1.0])

    def mod(self, mix: Mix) -> ReplySource:
        """Several, whose distributions are."""
        from training.experts.policy import MixedPolicy, rewarded_soup

        names = [name for name, share in mix.shares.items() if share]
        models = [rewarded_soup(self.base, self.adapters, {name: 1.0}) for name in names]
        return MixedPolicy(self.base, models, [mix.shares[name] for name in names])

    def contents(self, mix: Mix) -> dict[str, str]:
        """What the replies to a mix depend on."""
        return {name: folder_hash(self.adapters[name]) for name, share in sorted(mix.shares.items()) if share}


@dataclass(frozen=True)
class OfExperts:
    """One of the two ways of mixing experts.

    Attributes:
        label: names its folders; policy: what a mix is sampled from.
    """

    setting: Setting
    experts: Experts
    name: str
    label: str
    passes: float
    policy: Callable[[Mix], ReplySource]

    def at(self, mix: Mix) -> Measured:
        plain = self.setting.sampler
        sampler = replace(
            plain,
            engine=lambda: self.policy(mix),
            sampled_from={**plain.sampled_from, "experts": self.experts.contents(mix)},
            limits=replace(plain.limits, read_top=None),  # they tell it unasked
        )
        condition = Condition(f"{self.label}_{mix.folder_name}_x{self.setting.samples}", None, self.setting.samples)
        scored = scored_replies(sampler, self.setting.rewards, condition, silent)
        return measured(scored, sampler.tokens_per_s(condition))


def expert_methods(setting: Setting, folder: Path, base: str, groups: Sequence[MixGroup]) -> list[Method]:
    """Rewarded Soups, which costs a reply what the base does, and MOD, which reads it with every expert.

    Args:
        folder: of the experts; base: of the base.

    Raises:
        RecipeError: an expert that the groups need is not there.
    """
    experts = Experts.of(folder, base, groups)
    most = max(len(group.objectives) for group in groups)
    return [
        OfExperts(setting, experts, "rewarded soup", "soup", 1.0, experts.soup),
        OfExperts(setting, experts, "MOD", "mod", float(most), experts.mod),
    ]
