"""Curves of the fits: what TensorBoard reads of finished runs."""

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.runs.curves import curves, curves_folder
from training.runs.run import Run, StageName


def drawn(run: Run, stage: StageName) -> EventAccumulator:
    found = EventAccumulator(str(curves_folder(run, stage)))
    found.Reload()
    return found


def test_every_round_of_value_models_has_its_losses(rounds: Run) -> None:
    for iteration in rounds.iterations:
        curve = drawn(iteration, "fit")
        steps = [event.step for event in curve.Scalars("eval/loss")]
        assert steps == sorted(set(steps)) and len(steps) >= 1
        assert all(event.value > 0 for event in curve.Scalars("eval/loss"))


def test_a_stage_that_goes_on_adds_to_its_curves(rounds: Run) -> None:
    for step in (1, 2):
        with curves(rounds.at(1), "probe") as writer:
            writer.add_scalar("advantages/loss", 1 / step, step)
    assert [(event.step, event.value) for event in drawn(rounds.at(1), "probe").Scalars("advantages/loss")] == [
        (1, 1.0),
        (2, 0.5),
    ]
