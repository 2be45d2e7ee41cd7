"""The chunks of a stream joined into the reply that the same request gives without streaming. No I/O.

Works on parsed JSON, so that fields of newer servers come through as well.
"""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

_PIECES_OF_TEXT = frozenset({"content", "reasoning", "refusal", "text", "arguments"})
_INDEXED = frozenset({"choices", "tool_calls"})


def joined_reply(chunks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The body of the whole answer. `chunks` are the stream's payloads, in order."""
    reply = _join_objects(chunks)
    reply["object"] = str(reply.get("object", "")).removesuffix(".chunk")
    for choice in reply.get("choices", []):
        if "delta" in choice:
            choice["message"] = choice.pop("delta")
            for call in choice["message"].get("tool_calls") or []:
                call.pop("index", None)  # only says which pieces belong together
    return reply


def _join_objects(objects: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    said: dict[str, list[Any]] = {}
    for each in objects:
        for name, value in each.items():
            values = said.setdefault(name, [])
            if value is not None:
                values.append(value)
    return {name: _join(name, values) for name, values in said.items()}


def _join(name: str, values: Sequence[Any]) -> Any:
    """What one field says in the end: text and lists go on where they were, objects field by field, else the last."""
    if not values:
        return None
    if name in _PIECES_OF_TEXT and isinstance(values[0], str):
        return "".join(values)
    if name in _INDEXED:
        return _join_indexed(list(chain.from_iterable(values)))
    if isinstance(values[0], list):
        return list(chain.from_iterable(values))
    if isinstance(values[0], Mapping):
        return _join_objects(values)
    return values[-1]


def _join_indexed(pieces: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    by_index: dict[int, list[Mapping[str, Any]]] = {}
    for piece in pieces:
        by_index.setdefault(piece.get("index") or 0, []).append(piece)
    return [_join_objects(by_index[index]) for index in sorted(by_index)]
