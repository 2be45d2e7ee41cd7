"""`make audit`: what serving is made of, as a CycloneDX file, and whether anything in it is known to be vulnerable.

Reads the pinned requirements; the two tools are installed into a scratch environment. Ends with status 1 where
something is known to be vulnerable. Where the advisories are out of reach it says so, and ends with 0.
"""

import json
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ("requirements/cpu.txt", "requirements/gpu.txt")
TOOLS = ("pip-audit==2.10.1", "cyclonedx-bom==7.5.0")
OUT = PROJECT / "build"


def main() -> int:
    """Write build/sbom-*.json and print what is known; the exit status."""
    OUT.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="audit-") as scratch:
        venv.create(scratch, with_pip=True)
        tools = Path(scratch, "bin")
        subprocess.run([tools / "pip", "install", "--quiet", *TOOLS], check=True)
        return max(_audit(tools, PROJECT / name) for name in REQUIREMENTS)


def _audit(tools: Path, requirements: Path) -> int:
    bill = OUT / f"sbom-{requirements.stem}.json"
    write: list[str | Path] = [
        tools / "cyclonedx-py",
        "requirements",
        requirements,
        "--pyproject",
        PROJECT / "pyproject.toml",
    ]
    subprocess.run([*write, "--output-reproducible", "--output-file", bill], check=True, stderr=subprocess.DEVNULL)
    print(f"audit: {bill.relative_to(PROJECT)} is the bill of materials of {requirements.relative_to(PROJECT)}")
    look_up: list[str | Path] = [
        tools / "pip-audit",
        "--requirement",
        requirements,
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
    ]
    found = subprocess.run([*look_up, "--progress-spinner", "off"], capture_output=True, text=True, check=False)
    if not found.stdout:
        print(f"audit: nothing could be looked up: {(found.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        return 0
    packages = json.loads(found.stdout)["dependencies"]
    for line in sentences(packages):
        print(f"audit: {line}")
    return int(any(package.get("vulns") for package in packages))


def sentences(packages: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What pip-audit found out about packages, in words."""
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    vulnerable = [package for package in packages if package.get("vulns")]
    for package in vulnerable:
        for each in package["vulns"]:
            mended = ", ".join(each["fix_versions"]) or "no version yet"
            yield f"{package['name']} {package['version']}: {each['id']}, mended in {mended}"
    if len(skipped) == len(packages):
        yield "the advisories are out of reach, or know none of the packages: nothing was looked up"
        return
    yield f"{len(packages) - len(skipped)} packages looked up, {len(vulnerable)} of them known to be vulnerable"
    if skipped:
        yield f"not looked up: {', '.join(skipped)}"


if __name__ == "__main__":
    sys.exit(main())
