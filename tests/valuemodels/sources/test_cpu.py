"""Which arithmetic the base model gets on which processor."""

from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from valuemodels.sources import cpu


@pytest.mark.parametrize(
    ("cpuinfo", "dtype"),
    [
        ("processor : 0\nflags\t\t: fpu avx2 avx512bw avx512vl avx512dq\n", "auto"),
        ("processor : 0\nflags\t\t: fpu avx2 fma\n", "float32"),
        ("processor : 0\nFeatures\t: fp asimd bf16 i8mm\n", "auto"),
        ("processor : 0\nFeatures\t: fp asimd\n", "float32"),
        ("", "float32"),
    ],
)
def test_bfloat16_only_where_it_is_fast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cpuinfo: str, dtype: str
) -> None:
    monkeypatch.setattr(cpu, "version", lambda name: "0.32.0")
    (tmp_path / "cpuinfo").write_text(cpuinfo)
    assert cpu.base_dtype(tmp_path / "cpuinfo") == dtype


def test_without_cpuinfo_it_is_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "version", lambda name: "0.32.0")
    assert cpu.base_dtype(tmp_path / "none") == "float32"


def test_on_a_gpu_the_model_keeps_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(cpu, "version", missing)
    assert cpu.base_dtype(tmp_path / "none") == "auto"
