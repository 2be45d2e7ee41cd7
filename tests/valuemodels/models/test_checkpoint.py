"""A checkpoint loads exactly as it was saved, or says in one sentence why not."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import TARGETS, random_tensors
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import CONFIG_FILE, TENSORS_FILE, BackboneConfig, ValueConfig, read_value_config
from valuemodels.models.check import main
from valuemodels.models.checkpoint import load_value_model, peft_adapter_tensors, save_checkpoint
from valuemodels.models.trunk import ValueModel


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "values"))


def load(folder: Path, base: str) -> ValueModel:
    return load_value_model(folder, base, dtype=torch.float32, device="cpu")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_tensors(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = {**load_file(folder / TENSORS_FILE), **changes}
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / TENSORS_FILE)


def one_sentence(folder: Path, base: str) -> str:
    with pytest.raises(CheckpointError) as refused:
        load(folder, base)
    message = str(refused.value)
    assert "\n" not in message
    return message


def test_merging_the_adapter_gives_the_values_of_the_model_that_was_trained(
    tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(3)
    trained = ValueModel.build(tiny_config(), tiny_base)
    trained.backbone = get_peft_model(trained.backbone, LoraConfig(r=4, lora_alpha=8, target_modules=list(TARGETS)))
    for name, parameter in trained.backbone.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    heads = {f"head.{name}": parameter for name, parameter in trained.head.named_parameters()}
    save_checkpoint(tmp_path / "values", tiny_config(), {**heads, **peft_adapter_tensors(trained.backbone)})
    ids = torch.randint(64, (2, 15))
    with torch.no_grad():
        torch.testing.assert_close(load(tmp_path / "values", tiny_base)(ids), trained.eval()(ids), atol=1e-5, rtol=1e-5)


def test_a_backbone_of_n_layers_is_the_bases_first_n(tiny_base: str, tiny_config: Callable[..., ValueConfig]) -> None:
    from transformers import AutoModel

    model = ValueModel.build(tiny_config(), tiny_base)
    whole = AutoModel.from_pretrained(tiny_base)
    assert len(model.backbone.layers) == 2
    assert torch.equal(model.backbone.layers[1].mlp.up_proj.weight, whole.layers[1].mlp.up_proj.weight)


def test_loading_twice_gives_the_same_model(folder: Path, tiny_base: str) -> None:
    ids = torch.arange(10)[None]
    assert torch.equal(load(folder, tiny_base)(ids), load(folder, tiny_base)(ids))


def test_missing_pieces_are_named(folder: Path, tiny_base: str, tmp_path: Path) -> None:
    assert "has no value_config.json" in one_sentence(tmp_path / "nowhere", tiny_base)
    (folder / TENSORS_FILE).unlink()
    assert "has no model.safetensors" in one_sentence(folder, tiny_base)


@pytest.mark.parametrize("keep", [0, 5, 200, -3])
def test_a_truncated_tensor_file_is_refused(folder: Path, tiny_base: str, keep: Any) -> None:
    path = folder / TENSORS_FILE
    path.write_bytes(path.read_bytes()[:keep])
    assert "truncated" in one_sentence(folder, tiny_base)


def test_a_pickle_in_place_of_safetensors_is_refused_unread(folder: Path, tiny_base: str) -> None:
    torch.save({"a": torch.ones(1)}, folder / TENSORS_FILE)
    assert "not a safetensors file" in one_sentence(folder, tiny_base)


def test_broken_tensors_are_named(folder: Path, tiny_base: str, tmp_path: Path) -> None:
    def broken(**changes: torch.Tensor | None) -> str:
        copy = Path(shutil.copytree(folder, tmp_path / str(len(list(tmp_path.iterdir())))))
        edit_tensors(copy, **changes)
        return one_sentence(copy, tiny_base)

    name = "head.layers.0.weight"
    assert "NaN or infinity" in broken(**{name: torch.full((16, 32), torch.nan)})
    assert "shape [16, 31], expected [16, 32]" in broken(**{name: torch.ones(16, 31)})
    assert "float64" in broken(**{name: torch.ones(16, 32, dtype=torch.float64)})
    assert f"lacks tensor {name}" in broken(**{name: None})
    assert "holds tensor extra" in broken(extra=torch.ones(1))


def test_a_foreign_tokenizer_is_refused(folder: Path, tiny_base: str) -> None:
    edit_config(folder, tokenizer_fingerprint="0" * 64)
    assert "was trained with the tokenizer of tiny-base" in one_sentence(folder, tiny_base)


def test_config_mistakes_are_named(folder: Path, tiny_base: str) -> None:
    edit_config(folder, surprise=1)
    assert "surprise" in one_sentence(folder, tiny_base)
    edit_config(folder, format_version=99)
    assert "format_version 99" in one_sentence(folder, tiny_base)
    (folder / CONFIG_FILE).write_text("{")
    assert "cannot be read as JSON" in one_sentence(folder, tiny_base)


def test_doubled_objectives_and_useless_numbers_are_refused(folder: Path) -> None:
    data = json.loads((folder / CONFIG_FILE).read_text())
    edit_config(folder, objectives=data["objectives"][:1] * 2)
    with pytest.raises(CheckpointError, match="warmth is listed twice"):
        read_value_config(folder)
    edit_config(folder, objectives=[{**data["objectives"][0], "std": 0.0}])
    with pytest.raises(CheckpointError, match=r"objectives\.0\.std"):
        read_value_config(folder)


def test_more_layers_than_the_base_has_is_refused(
    folder: Path, tiny_base: str, tiny_config: Callable[..., ValueConfig]
) -> None:
    edit_config(folder, backbone=BackboneConfig(kind="base", layers=9).model_dump(mode="json"))
    assert "takes 9 layers" in one_sentence(folder, tiny_base)


def test_saving_replaces_the_old_folder_whole_and_leaves_nothing_else(
    folder: Path, tiny_base: str, tiny_config: Callable[..., ValueConfig]
) -> None:
    before = load(folder, tiny_base)(torch.arange(8)[None])
    save_checkpoint(folder, tiny_config(id="newer"), random_tensors(tiny_config(), tiny_base, seed=9))
    assert read_value_config(folder).id == "newer"
    assert not torch.equal(load(folder, tiny_base)(torch.arange(8)[None]), before)
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_who_may_read_the_one_file_may_read_the_other(
    tiny_base: str, tiny_config: Callable[..., ValueConfig], tmp_path: Path
) -> None:
    """Training saves as one user, and a container serves as another."""
    save_checkpoint(tmp_path / "new", tiny_config(), random_tensors(tiny_config(), tiny_base))
    (tmp_path / "any").touch()
    modes = {path.stat().st_mode for path in (tmp_path / "any", *(tmp_path / "new").iterdir())}
    assert len(modes) == 1


def test_a_failed_save_leaves_the_old_checkpoint(
    folder: Path, tiny_config: Callable[..., ValueConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("valuemodels.models.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(folder, tiny_config(id="newer"), {})
    assert read_value_config(folder).id == "tiny"
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_the_check_command_says_one_sentence_and_exits_with_2(
    folder: Path, tiny_base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(folder), "--base", tiny_base]) == 0
    edit_config(folder, tokenizer_fingerprint="0" * 64)
    assert main([str(folder), "--base", tiny_base]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1


def test_a_quantised_base_serves_fast_scoring_alone(
    tiny_base: str, tiny_probed_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tmp_path / "quantised"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "config.json").read_text())
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
    }
    (base / "config.json").write_text(json.dumps(config))
    asked = [str(tiny_probed_checkpoint), "--base", str(base)]
    assert main(asked) == 2
    assert "quantised; serve it with fast scoring" in capsys.readouterr().err
    assert main([*asked, "--scoring", "fast"]) == 0
