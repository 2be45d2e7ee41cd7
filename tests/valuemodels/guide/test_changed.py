"""What a worker keeps of changes: apart by generation, until the generation is dropped."""

from valuemodels.contract.changes import Change
from valuemodels.contract.guidance import ChoiceName, Guidance
from valuemodels.guide.changed import ChangedGenerations

ASKED = Guidance("g", weights={"warmth": 1.0}, beta=1.5)


def test_generations_are_changed_apart_and_forgotten_apart() -> None:
    changed = ChangedGenerations()
    changed.take([Change("a", beta=1.0), Change("b", beta=2.0), Change("a", beta=3.0)])
    betas = {name: held.over(ASKED, ChoiceName(0, 0)).beta for name in "ab" if (held := changed.get(name))}
    assert betas == {"a": 3.0, "b": 2.0}
    changed.drop(["a", "unknown"])
    assert changed.get("a") is None
    assert len(changed) == 1
