"""What the operator reads when the server is ready: address, objectives, and a curl line that works when pasted.

Pure text. No torch, no vLLM.
"""

import json
import shlex
from dataclasses import dataclass

from server.requests.catalogue import Catalogue


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens, as a client on this machine reaches it."""

    host: str
    port: int
    uds: str | None = None
    is_tls: bool = False

    @property
    def url(self) -> str:
        """Base URL; a wildcard host is shown as this machine's loopback."""
        if self.uds is not None:
            return "http://localhost"
        host = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host and not host.startswith("[") else host
        return f"{'https' if self.is_tls else 'http'}://{host}:{self.port}"


def ready_text(address: Address, model: str, catalogue: Catalogue, *, chats: bool, needs_key: bool) -> str:
    """Write it.

    Args:
        chats: the model has a chat template.
        needs_key: the server wants an API key; the curl line then takes it from `VLLM_API_KEY`.
    """
    lines = ["", f"mavis is ready: {model} at {address.uds or address.url}", "", "objectives:"]
    width = max(len(name) for name in catalogue.entries)
    for name, entry in catalogue.entries.items():
        bounds = catalogue.policy.bounds_of(name)
        description = " ".join(entry.objective.description.split())
        lines.append(f"  {name:<{width}}  {description} (weights {bounds.low:g} to {bounds.high:g})")
    lines += ["", "try:", "  " + _curl(address, model, catalogue, chats=chats, needs_key=needs_key), ""]
    return "\n".join(lines)


def _curl(address: Address, model: str, catalogue: Catalogue, *, chats: bool, needs_key: bool) -> str:
    name = next(iter(catalogue.entries))
    asked = {"max_tokens": 64, "objective_weights": {name: min(1.0, catalogue.policy.bounds_of(name).high)}}
    if chats:
        path = "/v1/chat/completions"
        body = {"model": model, "messages": [{"role": "user", "content": "Tell me about your day."}], **asked}
    else:
        path = "/v1/completions"
        body = {"model": model, "prompt": "The best thing about today is", **asked}
    words = ["curl", "-s", *(["--unix-socket", address.uds] if address.uds else []), address.url + path]
    words += ["-H", "Content-Type: application/json"]
    line = shlex.join([*words, "-d", json.dumps(body)])
    return line + ' -H "Authorization: Bearer $VLLM_API_KEY"' if needs_key else line
