"""A finished checkpoint that new values are made from: its exact values teach them.

Runs in any training process. Must not import torch or vllm.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, deserialize

from training.runs.run_dir import content_hash
from valuemodels.contract.errors import CheckpointError
from valuemodels.contract.value_config import TENSORS_FILE, ValueConfig, read_value_config

ID_SEPARATOR = "+"
"""Between a checkpoint's id and what was done to it since."""


@dataclass(frozen=True, slots=True)
class Teacher:
    """A checkpoint with exact values; a probe that it has does not count.

    Attributes:
        config: without a probe, and with the id that the checkpoint had before it got one.
        had_probe: it has a probe.
        digest: hash of `config` and of the exact tensors.
    """

    folder: Path
    config: ValueConfig
    had_probe: bool
    digest: str


def read_teacher(folder: Path) -> Teacher:
    """The checkpoint in a folder, as a teacher.

    Raises:
        CheckpointError: it is missing or broken, or has no exact values to give.
    """
    config = read_value_config(folder)
    _ = config.trunk
    had_probe = config.probe is not None
    exact_id = config.id.split(ID_SEPARATOR)[0] if had_probe else config.id
    config = config.model_copy(update={"probe": None, "id": exact_id})
    described = config.model_dump(mode="json", exclude={"format_version"})
    return Teacher(folder, config, had_probe, content_hash([described, _hash_of_exact_tensors(folder / TENSORS_FILE)]))


def _hash_of_exact_tensors(path: Path) -> str:
    """The same whatever else the file holds, and in whatever order."""
    try:
        tensors = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is missing or not a safetensors file: {error}") from None
    exact = {name: tensor for name, tensor in tensors if not name.startswith("probe.")}
    digest = hashlib.sha256()
    for name, tensor in sorted(exact.items()):
        digest.update(f"{name} {tensor['dtype']} {tensor['shape']} ".encode())
        digest.update(tensor["data"])
    return digest.hexdigest()
