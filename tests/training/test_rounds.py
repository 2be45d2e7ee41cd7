"""The stages around a fake engine: what they hand on, and what an interruption leaves."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import pytest
import torch
import yaml
from typer.testing import CliRunner

from tests.training.kit import FakeEngine
from training.calibrate.stage import calibrate_scales
from training.cli import app
from training.errors import RewardError, RunDirError
from training.fit.dataset import load_training_data
from training.prompts.chat import read_prompt_set
from training.prompts.stage import PROMPTS_FILE
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.report import copy_checkpoint, print_summary
from training.rollouts import stage as collect
from training.rollouts.engine import Reply
from training.rollouts.requests import Request
from training.rollouts.scores import read_rewards
from training.rollouts.shards import read_rollouts
from training.rounds import carry_out
from training.runs.opened import open_run
from training.runs.run import FastFitting, FastSampling, OtherStage, Run, StageName, TrainingStage
from training.runs.run_dir import RunDir
from training.stages import STAGES, run_stage
from valuemodels.contract.value_config import read_value_config
from valuemodels.models.checkpoint import load_value_model

WORDS = ("good", "awful", "happy", "sad", "bread", "photosynthesis", "love", "hate")


class WordsEngine(FakeEngine):
    """Replies with words that follow from the seed."""

    def reply(self, request: Request) -> Reply:
        text = " ".join(WORDS[(request.seed >> shift) % len(WORDS)] for shift in range(0, 12, 2))
        kl_nats = 0.3 * (request.guidance.beta or 0.0) ** 1.8 if request.guidance else 0.0
        return Reply(request.prompt_id, request.prompt_token_ids, request.sample, (5, 6, 7), text, "length", kl_nats)


class SegmentsEngine(FakeEngine):
    """Replies with three tokens that follow from the seed, each of them a word."""

    def reply(self, request: Request) -> Reply:
        tokens = tuple(5 + (request.seed >> shift) % len(WORDS) for shift in (0, 3, 6))
        prompt = (request.prompt_id, request.prompt_token_ids, request.sample)
        return Reply(*prompt, tokens, self.text_of(tokens), "length")

    def text_of(self, token_ids: Sequence[int]) -> str:
        return " ".join(WORDS[token - 5] for token in token_ids)


@pytest.fixture
def recipe() -> Recipe:
    recipe = read_recipe("embedded")
    small = recipe.rollout.model_copy(update={"shard_prompts": 4, "samples": 3, "held_out_samples": 2})
    # The words' engine says nothing that the other rewards could tell apart.
    return recipe.model_copy(update={"limit": 6, "rollout": small, "objectives": recipe.objectives[:2]})


@pytest.fixture
def run(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_base: str) -> Run:
    monkeypatch.setattr(collect, "RolloutEngine", WordsEngine)
    monkeypatch.setattr("training.calibrate.stage.RolloutEngine", WordsEngine)
    run = Run(recipe, RunDir(tmp_path / "run"), chat_base)
    run.write()
    return run


def _carry_out(run: Run, *names: StageName) -> None:
    for name in names:
        run_stage(run, name)


def test_data_stages_hand_on_every_reply_with_its_rewards(run: Run) -> None:
    _carry_out(run, "prompts", "rollouts", "rewards")
    rollouts = read_rollouts(run.finished("rollouts"))
    assert len(rollouts) == 6 * 3 + 12 * 2
    rewards = read_rewards(run.finished("rewards"), ("positivity", "simplicity"))
    assert rewards.keys() == {(rollout.prompt_id, rollout.sample) for rollout in rollouts}
    data = load_training_data(run)
    assert {name: len(examples) for name, examples in data.examples.items()} == {
        "train": 18, "validation": 12, "test": 12,
    }  # fmt: skip


def test_training_rewards_are_standardised_by_the_training_replies_alone(run: Run) -> None:
    _carry_out(run, "prompts", "rollouts", "rewards")
    trained_on = [example.learned.targets[-1].tolist() for example in load_training_data(run).examples["train"]]
    for column in zip(*trained_on, strict=True):
        assert sum(column) / len(column) == pytest.approx(0, abs=1e-5)


def test_a_reward_that_breaks_down_loses_nothing_that_it_has_scored(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is away in the middle of a data set must not be asked for all of it again."""
    monkeypatch.setattr("training.rollouts.scores.SHARD_REPLIES", 10)
    asked: list[int] = []

    def length(prompts: list[str], replies: list[str]) -> list[float]:
        asked.append(len(replies))
        if len(asked) == 3:
            raise RewardError("the service is away")
        return [float(len(reply)) for reply in replies]

    monkeypatch.setattr("training.rollouts.scores.load_reward", lambda _: length)
    _carry_out(run, "prompts", "rollouts")
    with pytest.raises(RewardError, match="the service is away"):
        _carry_out(run, "rewards")
    assert not run.stage("rewards").is_done
    _carry_out(run, "rewards")
    assert asked == [10, 10, 10, 10, 10, 2, 10, 10, 10, 10, 2], "two objectives of 42 replies, one part twice"


def test_a_recipe_of_trees_learns_from_what_replies_share(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "RolloutEngine", SegmentsEngine)
    rollout = run.recipe.rollout.model_copy(update={"samples": 2, "below": (2,), "max_tokens": 9})
    grown = Run(run.recipe.model_copy(update={"rollout": rollout}), run.run_dir, run.base_folder)
    _carry_out(grown, "prompts", "rollouts", "rewards")
    rollouts = [rollout for rollout in read_rollouts(grown.finished("rollouts")) if rollout.split == "train"]
    assert len(rollouts) == 6 * 4 and all(len(rollout.nodes) == 2 for rollout in rollouts)
    learned = [example.learned for example in load_training_data(grown).examples["train"]]
    first, second = (learned[place].targets for place in (0, 1))
    assert torch.equal(first[0], second[0]), "the prompt is worth the same in all of its replies"
    assert not torch.equal(first[-1], second[-1])
    assert learned[0].counts.all() and not learned[1].counts.all(), "what two share counts once"


def test_no_prompt_is_in_two_splits(run: Run) -> None:
    _carry_out(run, "prompts")
    prompts = read_prompt_set(run.finished("prompts") / PROMPTS_FILE)
    assert len({prompt.prompt_id for prompt in prompts}) == len(prompts) == 18


def test_interrupted_rollouts_go_on_at_the_missing_shard(run: Run) -> None:
    _carry_out(run, "prompts", "rollouts")
    folder = run.stage("rollouts").folder
    whole = read_rollouts(folder)
    (folder / "done.json").unlink()
    (folder / "shard_0002.parquet").unlink()
    (killed := folder / ".shard_0002.parquet.17.partial").mkdir()
    (killed / "shard_0002.parquet").write_bytes(b"half")
    _carry_out(run, "rollouts")
    assert len({request.prompt_id for request in WordsEngine.asked}) == 4
    assert read_rollouts(folder) == whole


def test_stage_refuses_to_run_before_those_it_needs(run: Run) -> None:
    with pytest.raises(RunDirError, match="prompts is not done"):
        _carry_out(run, "rollouts")


def test_changed_setting_refuses_later_stages_but_keeps_earlier_ones(run: Run, recipe: Recipe) -> None:
    _carry_out(run, "prompts", "rollouts", "rewards")
    fit = recipe.fit.model_copy(update={"epochs": 9})
    Run(recipe.model_copy(update={"fit": fit}), run.run_dir, run.base_folder).finished("rewards")
    rollout = recipe.rollout.model_copy(update={"samples": 4})
    changed = Run(recipe.model_copy(update={"rollout": rollout}), run.run_dir, run.base_folder)
    changed.finished("prompts")
    with pytest.raises(RunDirError, match=r"rollouts\.rollout\.samples = 3, but it is 4 now"):
        changed.finished("rewards")


def test_calibration_finds_a_scale_for_each_objective_with_common_seeds(run: Run) -> None:
    _carry_out(run, "prompts", "rollouts", "rewards")
    fit = run.stage("fit")
    fit.start()
    fit.finish({})
    summary = calibrate_scales(run)
    for name in ("positivity", "simplicity"):
        costs = {trial["scale"]: trial["kl_nats"] for trial in summary["trials"][name]}
        assert costs[summary["scales"][name]] == pytest.approx(4.8, abs=0.2)
    seeds: dict[str, set[int]] = {}
    for request in WordsEngine.asked:
        seeds.setdefault(request.prompt_id, set()).add(request.seed)
    assert all(len(of_prompt) == 1 for of_prompt in seeds.values())
    generations = [request.guidance.generation_id for request in WordsEngine.asked if request.guidance]
    assert len(set(generations)) == len(WordsEngine.asked)


def test_stages_processes_read_the_recipe_from_the_runs_folder(run: Run, recipe: Recipe) -> None:
    assert open_run(run.run_dir.path, Path(run.base_folder)).recipe == recipe


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "nothing"], "recipe: got 'nothing'"),
        (["stage", "fit", "no-such-folder"], "holds no training run"),
        (["stage", "sleep", "no-such-folder"], "stage: got 'sleep', allowed is one of prompts"),
    ],
)
def test_command_ends_with_one_sentence_and_status_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert message in result.output and "Traceback" not in result.output


def test_a_whole_round_ends_in_a_checkpoint_that_serves(
    run: Run, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every stage in its order, in this process; the command then says where the result lies and copies it."""
    small = {
        "backbone": recipe.backbone.model_copy(update={"layers": 2}),
        "fit": recipe.fit.model_copy(update={"epochs": 1}),
    }
    whole = Run(recipe.model_copy(update=small), run.run_dir, run.base_folder)
    _carry_out(whole, *whole.stages)
    print_summary(whole)
    copy_checkpoint(whole, tmp_path / "values")
    said = capsys.readouterr().out
    assert all(word in said for word in ("positivity", "simplicity", "calibrate", "min in all", "copied to"))
    config = read_value_config(tmp_path / "values")
    scales = whole.stage("calibrate").summary()["scales"]
    assert {objective.name: objective.scale for objective in config.objectives} == scales
    model = load_value_model(tmp_path / "values", run.base_folder, dtype=torch.float32, device="cpu")
    assert model(torch.tensor([[5, 6, 7]])).shape == (1, 3, 2)


def test_stages_run_in_processes_of_their_own_and_a_failed_one_ends_the_round(run: Run, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match=r"stage prompts failed with exit status \d+; run the same command again"):
        carry_out(Run(run.recipe, RunDir(tmp_path / "own"), str(tmp_path)))
    assert not (tmp_path / "own" / "iter_0" / "prompts" / "done.json").exists()


def test_every_stage_of_every_round_can_be_carried_out() -> None:
    assert set(STAGES) == {
        *get_args(TrainingStage),
        *get_args(FastSampling),
        *get_args(FastFitting),
        *get_args(OtherStage),
    }


def test_a_recipes_own_limit_holds_where_the_command_gives_none(
    recipe: Recipe, tmp_path: Path, chat_base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Would catch a flag's None written over what the recipe says."""
    seen: list[int | None] = []
    monkeypatch.setattr("training.cli.carry_out", lambda run: seen.append(run.recipe.limit))
    monkeypatch.setattr("training.cli.print_summary", lambda run: None)
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    arguments = ["run", str(path), "--run-dir", str(tmp_path / "own"), "--base-folder", chat_base]
    for more in ([], ["--limit", "2"]):
        result = CliRunner().invoke(app, [*arguments, *more])
        assert result.exit_code == 0, result.output
    assert seen == [6, 2]


def test_a_prompt_file_that_is_not_there_is_one_sentence(recipe: Recipe, tmp_path: Path, chat_base: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump({**recipe.model_dump(mode="json"), "prompts": "no-such-file.jsonl"}))
    arguments = ["run", str(path), "--run-dir", str(tmp_path / "own"), "--base-folder", chat_base]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert "no-such-file.jsonl cannot be read: No such file" in result.output and "Traceback" not in result.output


def test_a_base_of_other_content_is_refused(run: Run, tmp_path: Path) -> None:
    """Would catch a run that goes on with another base model under the same name, or from `--base-folder`."""
    _carry_out(run, "prompts")
    other = tmp_path / "other-base"
    shutil.copytree(run.base_folder, other)
    Run(run.recipe, run.run_dir, str(other)).finished("prompts")
    (other / "config.json").write_text("{}")
    with pytest.raises(RunDirError, match=r"prompts\.base_content"):
        Run(run.recipe, run.run_dir, str(other)).finished("prompts")


def test_a_reward_whose_code_changed_is_refused(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Would catch rewards of an earlier version mixed into a run that goes on."""
    code = tmp_path / "resumed_reward.py"
    code.write_text(
        "class Length:\n    def __call__(self, prompts, replies):\n        return [len(r) for r in replies]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    own = run.recipe.objectives[0].model_copy(update={"reward": "resumed_reward:Length"})
    changed = Run(run.recipe.model_copy(update={"objectives": (own,)}), run.run_dir, run.base_folder)
    _carry_out(changed, "prompts", "rollouts", "rewards")
    changed.finished("rewards")
    code.write_text(code.read_text() + "\n")
    with pytest.raises(RunDirError, match=r"rewards\.positivity\.code"):
        changed.finished("rewards")
