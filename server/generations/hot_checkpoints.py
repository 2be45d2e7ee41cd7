"""Other value checkpoints in place of those that are served, while texts are written.

They are looked at as at the start, loaded in the workers beside the engine's steps, and then hold for the requests that
come. Generations keep the objectives that they began with; what they began with goes when nothing of them is left.

Runs in the HTTP process, on its event loop alone. No torch, no vLLM.
"""

import asyncio
import contextlib
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

from server.audit import Audit
from server.errors import CheckpointsError, EngineLostError, FieldError, LoadingError, RequestError
from server.generations.service import GenerationService
from server.requests.catalogue import Catalogue
from server.workers.checkpoint_check import complaint_about
from server.workers.rpc import EngineRpc, call_ranks
from valuemodels.contract.errors import MavisError
from valuemodels.contract.guide_config import GuideConfig
from valuemodels.contract.value_config import CONFIG_FILE, ValueConfig, read_value_config

MOST = 16
POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class _Served:
    """A checkpoint by the name that requests to load it give."""

    name: str
    folder: str
    config: ValueConfig

    def listed(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "object": "checkpoint",
            "id": self.config.id,
            "objectives": list(self.config.names),
            "scorings": list(self.config.scorings),
        }


class HotCheckpoints:
    """Loads, replaces and unloads: all of it by saying what is to be served from now on."""

    def __init__(
        self,
        service: GenerationService,
        engine: EngineRpc,
        config: GuideConfig,
        root: Path,
        catalogue_of: Callable[[GuideConfig, Sequence[ValueConfig], int], Catalogue],
        audit: Audit,
    ) -> None:
        """
        Args:
            config: of the start, whose checkpoints may be named by their ids.
            root: folder that all others lie in.
            catalogue_of: makes the catalogue of an offer, by its config, its checkpoints and its number.
        """
        self._service = service
        self._engine = engine
        self._config = config
        self._root = root.resolve()
        self._catalogue_of = catalogue_of
        self._audit = audit
        configs = [(folder, read_value_config(folder)) for folder in config.checkpoints]
        self._first = {each.id: _Served(each.id, folder, each) for folder, each in configs}
        self._served = list(self._first.values())
        self._numbers = count(1)
        self._loading = asyncio.Lock()
        self._ending: set[asyncio.Task[None]] = set()

    def listing(self) -> dict[str, Any]:
        """What is served, and what might be."""
        found = {path.parent.relative_to(self._root).as_posix() for path in self._root.glob(f"*/{CONFIG_FILE}")}
        served = [each.listed() for each in self._served]
        return {"object": "list", "data": served, "available": sorted({*self._first, *found})}

    async def replace(self, names: Any, address: str) -> dict[str, Any]:
        """Serve these checkpoints from now on, and no others.

        Args:
            names: folders under the root, or ids of what was served from the start.
            address: of who asks, for the audit log.

        Returns:
            `listing()`, once that is so.

        Raises:
            FieldError: names that are none, or of nothing that is there.
            CheckpointsError: they do not fit the base, each other or the operator's settings, or cannot be loaded.
            LoadingError: others are being loaded.
            EngineLostError: the engine died.
        """
        try:
            if self._loading.locked():
                raise LoadingError
            async with self._loading:
                await self._replace(self._read(names))
        except RequestError as error:
            self._audit.refuse("checkpoints", names=names, address=address, refused=type(error).__name__)
            raise
        self._audit.note("checkpoints", names=names, address=address, offer=self._service.catalogue.offer)
        return self.listing()

    async def _replace(self, wanted: list[_Served]) -> None:
        number = next(self._numbers)
        config = replace(self._config, checkpoints=tuple(each.folder for each in wanted))
        try:
            catalogue = self._catalogue_of(config, [each.config for each in wanted], number)
        except MavisError as error:
            raise CheckpointsError(str(error)) from None
        if complaint := await complaint_about(config):
            raise CheckpointsError(complaint)
        await self._load(number, config)
        before, self._service.catalogue, self._served = self._service.catalogue, catalogue, wanted
        # Whatever began with it holds it: it goes with the last of them.
        loop = asyncio.get_running_loop()
        weakref.finalize(before, _call_soon, loop, self._end, before.offer).atexit = False

    async def _load(self, number: int, config: GuideConfig) -> None:
        """Until all workers have it, or one of them cannot."""
        states = await call_ranks(self._engine, "mavis_load", number, config.to_wire())
        while any(state["state"] == "loading" for state in states):
            await asyncio.sleep(POLL_S)
            states = await call_ranks(self._engine, "mavis_offer", number)
        failed = [state for state in states if state["state"] != "ready"]
        if failed or not states:
            await call_ranks(self._engine, "mavis_unload", number)
            raise CheckpointsError(failed[0].get("reason", "a worker has lost it") if failed else "no worker answered")

    def _end(self, number: int) -> None:
        ending = asyncio.ensure_future(self._unload(number))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _unload(self, number: int) -> None:
        with contextlib.suppress(EngineLostError):
            await call_ranks(self._engine, "mavis_unload", number)

    def _read(self, names: Any) -> list[_Served]:
        are_texts = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if not are_texts or not 1 <= len(names) <= MOST or len(set(names)) < len(names):
            allowed = f"a list of 1 to {MOST} different names of checkpoints; GET tells which there are"
            raise FieldError("checkpoints", names, allowed)
        return [self._first.get(name) or self._find(name) for name in names]

    def _find(self, name: str) -> _Served:
        try:
            folder = (self._root / name).resolve()
            is_inside = folder != self._root and folder.is_relative_to(self._root)
            is_there = is_inside and (folder / CONFIG_FILE).is_file()
        except (ValueError, OSError):  # no file can have such a name
            is_there = False
        if not is_there:
            raise FieldError("checkpoints", name, "a checkpoint's folder under MAVIS_VALUES_ROOT")
        try:
            return _Served(name, str(folder), read_value_config(folder))
        except MavisError as error:
            raise CheckpointsError(str(error)) from None


def _call_soon(loop: asyncio.AbstractEventLoop, call: Callable[[int], None], number: int) -> None:
    """From whichever thread the last holder goes in; nothing where the server has gone."""
    if not loop.is_closed():
        loop.call_soon_threadsafe(call, number)
