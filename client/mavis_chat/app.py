"""`mavis chat` (also `mavis-chat`): talk to a server from a terminal, and move its sliders while it answers.

mavis chat [--url URL] [--profile NAME] [--temperature 0.8] [--max-tokens 256] [--seed N] [--api-key KEY]
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Annotated, Any, Optional

import typer
from rich.console import Console

from mavis_chat.sliders import Sliders
from mavis_chat.writing import marked, write
from mavis_client import AsyncMavisClient, MavisError

app = typer.Typer(invoke_without_command=True, help="Talk to a server, and move its sliders while it answers.")
COMMANDS = "/set NAME WEIGHT   /reset   /new   /quit"


@app.callback()
def chat(
    url: Annotated[str, typer.Option(help="Where the server is.")] = "http://127.0.0.1:8000",
    profile: Annotated[Optional[str], typer.Option(help="A profile of the server's to begin with.")] = None,  # noqa: UP045
    temperature: Annotated[float, typer.Option(min=0)] = 0.8,
    max_tokens: Annotated[int, typer.Option(min=1, help="Of an answer.")] = 256,
    seed: Annotated[Optional[int], typer.Option(min=0, help="Another each time if not given.")] = None,  # noqa: UP045
    api_key: Annotated[Optional[str], typer.Option(help="MAVIS_API_KEY if not given.")] = None,  # noqa: UP045
) -> None:
    """Ask, read, steer. An empty line or /quit ends it."""
    fields: dict[str, Any] = {"temperature": temperature, "max_tokens": max_tokens}
    if seed is not None:
        fields["seed"] = seed
    try:
        asyncio.run(_talk(url, profile, fields, api_key or os.environ.get("MAVIS_API_KEY")))
    except MavisError as error:
        typer.echo(f"mavis chat: {error}", err=True)
        raise typer.Exit(2) from None
    except (KeyboardInterrupt, EOFError):
        typer.echo("")


async def _talk(url: str, profile: str | None, fields: dict[str, Any], api_key: str | None) -> None:
    console = Console(highlight=False)
    async with AsyncMavisClient(url, api_key=api_key) as client:
        sliders = Sliders(await client.objectives())
        if profile is not None:
            fields["profile"] = profile
        messages: list[dict[str, Any]] = []
        console.print("\n".join(sliders.lines()), markup=False)
        console.print(
            f"While an answer is written, arrow keys move the sliders. Between answers: {COMMANDS}", style="dim"
        )
        while line := (await asyncio.to_thread(console.input, "[bold]> [/bold]")).strip():
            if line.startswith("/"):
                if not _carry_out(line, sliders, messages, console):
                    return
                continue
            messages.append({"role": "user", "content": line})
            answer = await write(client, console, sliders, messages, **fields)
            console.print(marked(answer))
            console.print(", ".join(filter(None, (_said(sliders.weights), answer.cost, answer.problem))), style="dim")
            messages.append({"role": "assistant", "content": answer.text})


def _carry_out(line: str, sliders: Sliders, messages: list[dict[str, Any]], console: Console) -> bool:
    """Carry out a command between answers; False where it ends the chat."""
    name, *words = line.split()
    if name == "/quit":
        return False
    if name == "/new":
        messages.clear()
    elif name == "/reset":
        sliders.set({each.id: each.default for each in sliders.objectives})
    elif name == "/set" and (weights := _weights(words, sliders)) is not None:
        sliders.set(weights)
    else:
        names = ", ".join(each.id for each in sliders.objectives)
        console.print(f"got {line!r}, allowed is {COMMANDS}, with NAME one of {names}", markup=False)
        return True
    console.print("\n".join(sliders.lines()), markup=False)
    return True


def _weights(words: list[str], sliders: Sliders) -> dict[str, float] | None:
    """What `/set` was given; None where that is no slider and a number."""
    try:
        name, weight = words[0], float(words[1])
    except (IndexError, ValueError):
        return None
    return {name: weight} if name in sliders.weights and abs(weight) < 1e9 and len(words) == 2 else None


def _said(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {weight:+.2f}" for name, weight in weights.items() if weight) or "as the base writes"


if __name__ == "__main__":
    app()
