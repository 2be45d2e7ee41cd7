"""A Dockerfile's steps without Docker: every stage in a root of its own, every RUN in a chroot, as root.

Understands what our CPU image is made of, and refuses everything else. A stage that begins `FROM` an image begins in a
fresh Debian of that image's release, made by debootstrap, with its Python in place of the image's.
"""

import json
import os
import re
import shlex
import stat
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dockerfile_parse import DockerfileParser

_DEVICES = {"null": 3, "zero": 5, "full": 7, "random": 8, "urandom": 9}
_PYTHON_IMAGE = re.compile(r"python:(?P<python>3\.\d+)-slim-(?P<release>\w+)")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_HOSTS_OWN = ("/etc/resolv.conf", "/etc/pip.conf", "/etc/xdg/pip", "/etc/ssl/certs")
"""Of this machine, by which it reaches its package index: copied, for what runs in a root may write to it."""


@dataclass(slots=True)
class Stage:
    """A stage as far as its steps have been run.

    Attributes:
        root: its file system; workdir, user, environment: as the last steps have set them.
    """

    root: Path
    workdir: str = "/"
    user: str = "0"
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"}
    )
    entrypoint: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)

    def command(self, arguments: Sequence[str], *, user: str | None = None) -> list[str]:
        """What runs a command in it."""
        found = [f"{name}={value}" for name, value in {"HOME": self.home, **self.environment}.items()]
        inside = f"cd {shlex.quote(self.workdir)} && exec {shlex.join(arguments)}"
        own = self.user if user is None else user
        return ["chroot", f"--userspec={own}:{own}", str(self.root), "env", "-i", *found, "sh", "-c", inside]

    @property
    def home(self) -> str:
        """Of its user."""
        lines = (self.root / "etc/passwd").read_text().splitlines()
        found = {fields[2]: fields[5] for fields in (line.split(":") for line in lines)}
        return found.get(self.user, "/")

    def inside(self, path: str) -> Path:
        """A path as the stage sees it."""
        return self.root / os.path.normpath(os.path.join(self.workdir, path)).lstrip("/")


class Build:
    """Runs a Dockerfile, stage by stage."""

    def __init__(self, context: Path, scratch: Path, proxied: Mapping[str, str]) -> None:
        """Args: `proxied`: environment variables that every RUN gets beside its own: how pip reaches its index."""
        self._context = context
        self._scratch = scratch
        self._proxied = dict(proxied)
        self._stages: dict[str, Stage] = {}

    def run(self, dockerfile: Path) -> Stage:
        """The last stage, all steps run."""
        stage: Stage | None = None
        steps: list[dict[str, Any]] = DockerfileParser(fileobj=dockerfile.open("r+b")).structure
        for step in steps:
            kind, value = step["instruction"], step["value"]
            if kind == "COMMENT":
                continue
            print(f"smoke: {kind} {value[:100]}", flush=True)
            if kind == "FROM":
                stage = self._begin(value)
                continue
            assert stage is not None, "FROM comes first"
            getattr(self, f"_{kind.lower()}")(stage, value)
        assert stage is not None, f"{dockerfile} has no stage"
        return stage

    def _begin(self, value: str) -> Stage:
        image, *named = value.split()
        name = named[1] if named else "last"
        root = self._scratch / name
        if image in self._stages:
            before = self._stages[image]
            _unmount(before.root)
            subprocess.run(["cp", "-a", str(before.root), str(root)], check=True)
            stage = Stage(root, before.workdir, before.user, dict(before.environment))
        else:
            stage = Stage(root)
            _bootstrap(root, image)
        _mount(root, self._proxied)
        if image not in self._stages:
            _install_python(stage, image)
            _copy_hosts_own(root)
        self._stages[name] = stage
        return stage

    def _run(self, stage: Stage, value: str) -> None:
        before = dict(stage.environment)
        stage.environment = {**self._proxied, **before}
        try:
            subprocess.run(stage.command(["sh", "-c", value]), check=True)
        finally:
            stage.environment = before

    def _copy(self, stage: Stage, value: str) -> None:
        words = value.split()
        flags = dict(word[2:].split("=", 1) for word in words if word.startswith("--"))
        *sources, target = [word for word in words if not word.startswith("--")]
        origin = self._stages[flags["from"]].root if "from" in flags else self._context
        into = stage.inside(target)
        for source in sources:
            path = origin / source.lstrip("/")
            place = into / path.name if len(sources) > 1 or target.endswith("/") else into
            place.parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-a", "-T", str(path), str(place)], check=True)
            if (owner := flags.get("chown")) or "from" not in flags:
                subprocess.run(["chown", "-R", owner or "0:0", str(place)], check=True)

    @staticmethod
    def _env(stage: Stage, value: str) -> None:
        for word in shlex.split(value):
            name, text = word.split("=", 1)
            stage.environment[name] = text.replace("$PATH", stage.environment["PATH"])

    @staticmethod
    def _workdir(stage: Stage, value: str) -> None:
        stage.workdir = value
        stage.inside(value).mkdir(parents=True, exist_ok=True)

    @staticmethod
    def _user(stage: Stage, value: str) -> None:
        stage.user = value

    @staticmethod
    def _entrypoint(stage: Stage, value: str) -> None:
        stage.entrypoint = json.loads(value)

    @staticmethod
    def _healthcheck(stage: Stage, value: str) -> None:
        stage.health = json.loads(value[value.index("CMD") + 3 :])

    @staticmethod
    def _label(stage: Stage, value: str) -> None:
        """Says nothing about what is in the image."""

    _expose = _label

    def close(self) -> None:
        """Let go of what the roots share with this machine."""
        for stage in self._stages.values():
            _unmount(stage.root)


def _bootstrap(root: Path, image: str) -> None:
    match = _PYTHON_IMAGE.fullmatch(image)
    assert match, f"{image}: only Python's slim images are known"
    subprocess.run(["debootstrap", "--variant=minbase", match["release"], str(root)], check=True)


def _install_python(stage: Stage, image: str) -> None:
    """As the image has it: under these names, with ensurepip, and certificates to download by."""
    python = image[image.index(":") + 1 : image.index("-")]
    install = (
        f"apt-get update -qq && apt-get install -y -qq --no-install-recommends python{python}-venv ca-certificates"
    )
    subprocess.run(stage.command(["sh", "-c", install]), check=True)
    for name in ("python3", "python"):
        (stage.root / "usr/local/bin" / name).symlink_to(f"/usr/bin/python{python}")


def _mount(root: Path, proxied: Mapping[str, str]) -> None:
    """What a container has, of its own; of this machine nothing but folders of wheels, to read."""
    subprocess.run(["mount", "-t", "proc", "proc", str(root / "proc")], check=True)
    subprocess.run(["mount", "-t", "sysfs", "-o", "ro", "sysfs", str(root / "sys")], check=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", str(root / "dev")], check=True)
    for name, minor in _DEVICES.items():
        os.mknod(root / "dev" / name, 0o666 | stat.S_IFCHR, os.makedev(1, minor))
        os.chmod(root / "dev" / name, 0o666)
    (root / "dev/shm").mkdir()
    (root / "dev/shm").chmod(0o1777)
    for path in proxied.get("PIP_FIND_LINKS", "").split():
        if Path(path).is_dir():
            place = root / path.lstrip("/")
            place.mkdir(parents=True, exist_ok=True)
            subprocess.run(["mount", "--bind", path, str(place)], check=True)
            subprocess.run(["mount", "-o", "remount,bind,ro", str(place)], check=True)


def _copy_hosts_own(root: Path) -> None:
    for path in filter(os.path.exists, _HOSTS_OWN):
        place = root / path.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-rL", "--remove-destination", "-T", path, str(place)], check=True)


def _unmount(root: Path) -> None:
    """Raises where something stays mounted: whoever deletes the root then would delete that."""
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for place in sorted((place for place in places if place.startswith(f"{root}/")), reverse=True):
        subprocess.run(["umount", place], check=True)
