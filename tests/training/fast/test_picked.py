"""Picking candidates: what stands for what, and that only what is there is picked."""

import pytest
import torch

from training.fast.picked import pick_candidates
from training.fast_recipe import PickRecipe


def test_others_stand_for_all_that_are_not_drawn() -> None:
    """Over many draws the weighted mean of any figure is its expectation under the base."""
    base = torch.linspace(0, -4, 20).log_softmax(-1)
    figure = torch.randn(20, generator=torch.Generator().manual_seed(0))
    recipe = PickRecipe(likeliest=3, others=5)
    candidates, weights = pick_candidates(base.expand(20000, -1), recipe, torch.Generator().manual_seed(1))
    torch.testing.assert_close(weights.sum(1), torch.ones(20000))
    assert (candidates[:, :3] == torch.arange(3)).all()
    drawn = candidates[:, 3:].sort(1).values
    assert (drawn.diff(dim=1) > 0).all() and (drawn >= 3).all(), "each at most once, and none of the likeliest"
    found = (weights * figure[candidates]).sum(1).mean()
    assert float(found) == pytest.approx(float((base.exp() * figure).sum()), abs=0.03)


@pytest.mark.parametrize("there", [1, 3, 4, 7])
def test_absent_candidates_are_never_labelled(there: int) -> None:
    base = torch.full((50, 12), float("-inf"))
    base[:, :there] = torch.linspace(0, -3, there).log_softmax(-1)
    candidates, weights = pick_candidates(base, PickRecipe(likeliest=3, others=4), torch.Generator().manual_seed(1))
    assert (candidates < there).all()
    assert (weights[:, there:] == 0).all() and weights.isfinite().all()
    torch.testing.assert_close(weights.sum(1), torch.ones(50))
