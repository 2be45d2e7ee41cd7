"""Value checkpoints on disk: strict reading, atomic writing.

A folder with `value_config.json` and `model.safetensors`, which holds only what training changed: the trunk's heads and
LoRA adapter where it has them, and the probe where there is one. Tensors are named `head.<parameter>`,
`adapter.<module>.A|B` and `probe.<parameter>`. Nothing is unpickled.
"""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import CONFIG_FILE, TENSORS_FILE, AdapterConfig, ValueConfig, read_value_config
from valuemodels.models.base import base_hidden_size, load_token_embeddings
from valuemodels.models.fingerprint import tokenizer_fingerprint, tokenizer_size
from valuemodels.models.probe import Probe
from valuemodels.models.trunk import ValueModel
from valuemodels.sources.folders import replacing_folder

_DTYPES = {torch.float32, torch.bfloat16, torch.float16}


def load_value_model(
    folder: str | Path,
    base_model: str,
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    base_revision: str | None = None,
) -> ValueModel:
    """Load a value model for serving: adapter merged into the backbone, gradients off.

    Raises:
        CheckpointError: the checkpoint is broken or does not fit the base model.
    """
    config = _fitting_config(folder, base_model, base_revision)
    tensors = read_tensors(folder, part="exact")
    # Merged in float32: rounding the product and the sum once keeps serving as close to training as the dtype allows.
    model = ValueModel.build(config, base_model, dtype=torch.float32, base_revision=base_revision)
    _check_vocabulary(folder, model, base_model, base_revision)
    _check_tensors(folder, tensors, _expected_shapes(model))
    model.head.load_state_dict(
        {name.removeprefix("head."): t for name, t in tensors.items() if name.startswith("head.")}
    )
    if model.backbone_config.adapter is not None:
        _merge_adapter(model.backbone, model.backbone_config.adapter, tensors)
    model.backbone.to(dtype)
    return model.to(device).requires_grad_(False).eval()


def load_probe(
    folder: str | Path, base_model: str, *, device: torch.device | str, base_revision: str | None = None
) -> tuple[Probe, Tensor]:
    """Load a checkpoint's probe for serving, in float32, and the base's token embeddings that it needs.

    Raises:
        CheckpointError: the checkpoint is broken, has no probe, or does not fit the base model.
    """
    config = _fitting_config(folder, base_model, base_revision)
    if config.probe is None:
        raise CheckpointError(f"value checkpoint {folder} has no probe, so it offers no fast scoring")
    if config.probe.source != "base":
        raise CheckpointError(f"value checkpoint {folder}: probe.source {config.probe.source} cannot be served")
    embeddings = load_token_embeddings(base_model, base_revision)
    hidden_size = base_hidden_size(base_model, base_revision)
    probe = Probe(hidden_size, embeddings.shape[1], embeddings.shape[0], len(config.objectives), config.probe)
    tensors = read_tensors(folder, part="probe")
    shapes = {f"probe.{name}": tuple(parameter.shape) for name, parameter in probe.named_parameters()}
    _check_tensors(folder, tensors, shapes)
    probe.load_state_dict({name.removeprefix("probe."): tensor for name, tensor in tensors.items()})
    return probe.to(device).requires_grad_(False).eval(), embeddings.to(device)


def save_checkpoint(folder: str | Path, config: ValueConfig, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint folder in one step: it appears whole or not at all, and replaces an older one.

    Args:
        tensors: named as the module docstring says.
    """
    with replacing_folder(Path(folder)) as partial:
        save_file({name: t.detach().cpu().contiguous() for name, t in sorted(tensors.items())}, partial / TENSORS_FILE)
        text = json.dumps(config.model_dump(mode="json"), indent=2, ensure_ascii=False)
        (partial / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        # safetensors lets the owner alone read what it writes; servers run as another user.
        shutil.copymode(partial / CONFIG_FILE, partial / TENSORS_FILE)


def read_tensors(folder: str | Path, part: Literal["all", "exact", "probe"] = "all") -> dict[str, Tensor]:
    """The tensors of a checkpoint, or only those that one way of scoring needs.

    Raises:
        CheckpointError: the file is missing, truncated or not safetensors.
    """
    path = Path(folder) / TENSORS_FILE
    if not path.is_file():
        raise CheckpointError(f"value checkpoint {folder} has no {TENSORS_FILE}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            names = [name for name in file.keys() if part in ("all", _part_of(name))]  # noqa: SIM118 (not a mapping)
            return {name: file.get_tensor(name) for name in names}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or not a safetensors file: {error}") from None


def peft_adapter_tensors(backbone: nn.Module) -> dict[str, Tensor]:
    """The LoRA matrices of a peft-wrapped backbone, under this format's names."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in backbone.named_parameters():
        for kind, suffix in (("A", ".lora_A.default.weight"), ("B", ".lora_B.default.weight")):
            if name.endswith(suffix):
                module = name.removesuffix(suffix).removeprefix("base_model.model.")
                tensors[f"adapter.{module}.{kind}"] = parameter.detach()
    return tensors


def _part_of(name: str) -> str:
    return "probe" if name.startswith("probe.") else "exact"


def _fitting_config(folder: str | Path, base_model: str, base_revision: str | None) -> ValueConfig:
    """The checkpoint's config, if it was made for this base model's tokenizer."""
    config = read_value_config(folder)
    fingerprint = tokenizer_fingerprint(base_model, base_revision)
    if fingerprint != config.tokenizer_fingerprint:
        raise CheckpointError(
            f"value checkpoint {folder} was trained with the tokenizer of {config.base_model} "
            f"({config.tokenizer_fingerprint[:12]}), but {base_model} has another one ({fingerprint[:12]})"
        )
    return config


def _check_vocabulary(folder: str | Path, model: ValueModel, base_model: str, base_revision: str | None) -> None:
    """A trunk of its own must know every token; of the base's layers it is the base's embedding that is used."""
    known = model.backbone.get_input_embeddings().weight.shape[0]
    if model.backbone_config.kind != "base" and known < (needed := tokenizer_size(base_model, base_revision)):
        raise CheckpointError(
            f"value checkpoint {folder}: its backbone {model.backbone_config.model} knows {known} tokens, "
            f"and the tokenizer of {base_model} has {needed}"
        )


def _expected_shapes(model: ValueModel) -> dict[str, tuple[int, ...]]:
    shapes = {f"head.{name}": tuple(parameter.shape) for name, parameter in model.head.named_parameters()}
    if (adapter := model.backbone_config.adapter) is not None:
        for name, linear in _adapted(model.backbone, adapter).items():
            shapes[f"adapter.{name}.A"] = (adapter.rank, linear.in_features)
            shapes[f"adapter.{name}.B"] = (linear.out_features, adapter.rank)
    return shapes


def _adapted(backbone: nn.Module, adapter: AdapterConfig) -> dict[str, nn.Linear]:
    return {
        name: module
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in adapter.targets
    }


def _check_tensors(folder: str | Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    where = f"value checkpoint {folder}"
    if missing := sorted(shapes.keys() - tensors.keys()):
        raise CheckpointError(f"{where} lacks tensor {missing[0]} ({len(missing)} missing)")
    if unknown := sorted(tensors.keys() - shapes.keys()):
        raise CheckpointError(f"{where} holds tensor {unknown[0]}, which its config does not account for")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != shapes[name]:
            raise CheckpointError(
                f"{where}: tensor {name} has shape {list(tensor.shape)}, expected {list(shapes[name])}"
            )
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{where}: tensor {name} is {tensor.dtype}, expected float32, bfloat16 or float16")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{where}: tensor {name} holds NaN or infinity")


@torch.no_grad()
def _merge_adapter(backbone: nn.Module, adapter: AdapterConfig, tensors: Mapping[str, Tensor]) -> None:
    for name, linear in _adapted(backbone, adapter).items():
        a, b = (tensors[f"adapter.{name}.{kind}"].float() for kind in ("A", "B"))
        linear.weight += (adapter.alpha / adapter.rank) * (b @ a)
