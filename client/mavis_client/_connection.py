"""How both clients reach the server: checked address and key, headers, timeouts. No I/O."""

from typing import Any

import httpx

from mavis_client._keywords import Timeout
from mavis_client._version import __version__

DEFAULT_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
"""Ten minutes without a byte: an answer that is not streamed sends none until it is finished."""

# uvicorn closes an idle connection after 5 s. Letting go of it earlier keeps a generation, which is not repeated, from
# being sent into a connection that the server is closing at that moment.
_LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=3.0)


def httpx_arguments(base_url: str, api_key: str | None, timeout: Timeout) -> dict[str, Any]:
    """Arguments for `httpx.Client` and `httpx.AsyncClient` alike.

    Raises:
        ValueError: the address or the key cannot be used; the key is never shown.
    """
    headers = {"User-Agent": f"mavis-client/{__version__}"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {_checked_key(api_key)}"
    return {"base_url": _checked_url(base_url), "headers": headers, "timeout": timeout, "limits": _LIMITS}


def _checked_url(base_url: str) -> httpx.URL:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL as error:
        raise ValueError(f"base_url: got {base_url!r}, which is no URL: {error}") from None
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        raise ValueError(f"base_url: got {base_url!r}, allowed is http://host:port or https://host, path optional")
    if url.path.rstrip("/").endswith("/v1"):
        raise ValueError(f"base_url: got {base_url!r}, allowed is the server's address without /v1")
    return url


def _checked_key(api_key: str) -> str:
    if not api_key or not api_key.isascii() or not api_key.isprintable() or " " in api_key:
        raise ValueError("api_key: allowed are printable ASCII characters without spaces or line ends")
    return api_key
