"""How a refusal is answered, by whatever finds it: the gate, a route, or FastAPI."""

from starlette.responses import JSONResponse

from server.errors import RequestError, envelope, headers_of


def refusal(error: RequestError, path: str) -> JSONResponse:
    """vLLM's envelope; on Anthropic's routes with what their clients look at as well."""
    status, body = envelope(error)
    if path.startswith("/v1/messages"):
        body = {"type": "error", **body}
    return JSONResponse(body, status, headers_of(error))
