"""The documents as a site: every link of it leads somewhere, with the repository's address and without."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = importlib.util.spec_from_file_location("site_hooks", ROOT / "deploy" / "site.py")
assert _SPEC is not None and _SPEC.loader is not None
site_hooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(site_hooks)

REPOSITORY = "https://example.org/mavis"


@pytest.mark.parametrize(
    ("source", "markdown", "expected"),
    [
        ("README.md", "[a](docs/serve.md#speed)", "[a](serve.md#speed)"),
        ("README.md", "![a](docs/images/x.gif)", "![a](images/x.gif)"),
        ("README.md", "[a](CONTRIBUTING.md)", f"[a]({REPOSITORY}/blob/main/CONTRIBUTING.md)"),
        ("docs/serve.md", "[a](steer.md) [b](../README.md)", "[a](steer.md) [b](index.md)"),
        ("docs/evaluation/gpu.md", "[a](../serve.md)", "[a](../serve.md)"),
        ("docs/serve.md", "[x]: ../tests/x.py", f"[x]: {REPOSITORY}/blob/main/tests/x.py"),
        ("docs/serve.md", "[a](https://a.b) [c](#d)", "[a](https://a.b) [c](#d)"),
        ("docs/serve.md", "```\n[a](../b.py)\n```", "```\n[a](../b.py)\n```"),
    ],
)
def test_links_lead_to_where_their_targets_lie(source: str, markdown: str, expected: str) -> None:
    assert site_hooks.rewritten(markdown, source, REPOSITORY) == expected


def test_without_a_repository_links_to_its_files_are_plain_text() -> None:
    assert site_hooks.rewritten("See [it](../tests/x.py).\n[y]: ../y.py", "docs/serve.md", "") == "See it.\n"


def test_the_site_is_built_and_no_link_of_it_leads_nowhere(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    home = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    assert 'href="serve/#speed"' in home and "../tests/" not in home
