"""An answer while it is written: its stream followed, keys taken, changes sent, both shown.

Of several moves in a moment the last one counts: a change goes out when the one before it has been answered.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from mavis_chat.keys import pressed_keys
from mavis_chat.sliders import Sliders
from mavis_client import AsyncMavisClient, ConflictError, MavisError, NotFoundError

_BEAT_S = 0.05
HELP = "↑ ↓ choose a slider, ← → move it, 0 its default, Esc stops"


@dataclass
class Answer:
    """What has been written.

    Attributes:
        moves: (characters written before, what was asked for then).
        has_begun: the server has told the id by which it can be steered; problem: what a change was refused with.
    """

    text: str = ""
    moves: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    has_begun: bool = False
    is_stopped: bool = False
    problem: str = ""
    cost: str = ""

    def note(self, changed: dict[str, float]) -> None:
        """Remember where in the text something was moved; of moves at one place the last counts."""
        place = len(self.text)
        if self.moves and self.moves[-1][0] == place:
            changed = self.moves.pop()[1] | changed
        self.moves.append((place, changed))


async def write(
    client: AsyncMavisClient, console: Console, sliders: Sliders, messages: list[dict[str, Any]], **fields: Any
) -> Answer:
    """Write the answer to a conversation, with the sliders in reach."""
    answer = Answer()
    wanted: dict[str, float] = {}
    call = client.chat_stream(messages, objective_weights=dict(sliders.weights), **fields)
    with pressed_keys() as keys, Live(console=console, refresh_per_second=12, transient=True) as live:
        async with call as stream:
            sender = asyncio.create_task(_send(stream, wanted, answer))
            listener = asyncio.create_task(_listen(keys, sliders, wanted, answer, live))
            try:
                async for chunk in stream:
                    answer.has_begun = True
                    answer.text += chunk.text
                    live.update(_screen(answer, sliders))
                    if answer.is_stopped:
                        break
            finally:
                for task in (sender, listener):
                    task.cancel()
                    with suppress(asyncio.CancelledError):
                        await task
        if not answer.is_stopped:
            answer.cost = _cost((await stream.completion()).choices[0].mavis)
    return answer


async def _listen(
    keys: asyncio.Queue[str], sliders: Sliders, wanted: dict[str, float], answer: Answer, live: Live
) -> None:
    while True:
        key = await keys.get()
        if key == "escape":
            answer.is_stopped = True
        elif changed := sliders.press(key):
            wanted |= changed
            answer.note(changed)
        live.update(_screen(answer, sliders))


async def _send(stream: Any, wanted: dict[str, float], answer: Answer) -> None:
    while True:
        await asyncio.sleep(_BEAT_S)
        if not (wanted and answer.has_begun):
            continue
        weights = dict(wanted)
        wanted.clear()
        try:
            await stream.set_weights(weights)
        except (ConflictError, NotFoundError):
            pass  # it ended meanwhile: there is nothing left to steer
        except MavisError as error:
            answer.problem = str(error)


def _screen(answer: Answer, sliders: Sliders) -> Group:
    lines = [Text(line, style="bold" if line.startswith("▸") else "") for line in sliders.lines()]
    return Group(marked(answer), Text(), *lines, Text(HELP, style="dim"))


def marked(answer: Answer) -> Text:
    """The text, with a mark wherever a slider was moved."""
    text, at = Text(), 0
    for place, changed in answer.moves:
        text.append(answer.text[at:place])
        said = ", ".join(f"{name} {weight:+.2f}" for name, weight in changed.items())
        text.append(f" ⟨{said}⟩", style="cyan")
        at = place
    text.append(answer.text[at:])
    return text


def _cost(mavis: Any) -> str:
    return "" if mavis is None or mavis.kl is None else f"{mavis.kl:.1f} nats from the base"
