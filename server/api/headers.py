"""The headers of our routes, declared for `/openapi.json`; they are read and checked with the request's fields.

Coroutines, though nothing is awaited: FastAPI would call functions in a thread, and every request would wait for it.
"""

from typing import Annotated

from fastapi import Header

from server.generations.ownership import MAX_TOKEN_LENGTH, MIN_TOKEN_LENGTH, TOKEN_HEADER
from server.requests.fields import MAX_ID_LENGTH, REQUEST_ID_HEADER

RequestId = Annotated[
    str | None,
    Header(
        alias=REQUEST_ID_HEADER,
        description=f"Chosen id, 1 to {MAX_ID_LENGTH} printable ASCII characters: the completion's id is `chatcmpl-` "
        "or `cmpl-` and this. 409 while another generation of this id runs.",
    ),
]
ChosenToken = Annotated[
    str | None,
    Header(
        alias=TOKEN_HEADER,
        description=f"Chosen token, {MIN_TOKEN_LENGTH} to {MAX_TOKEN_LENGTH} printable ASCII characters, which later "
        "reads and changes must carry. Chosen here, no `generation_token` has to be waited for.",
    ),
]
OwnersToken = Annotated[
    str | None,
    Header(alias=TOKEN_HEADER, description="The generation's token; not needed where the server has API keys."),
]


async def generation_headers(request_id: RequestId = None, generation_token: ChosenToken = None) -> None:
    """Declares the headers of the generating routes; they are read and checked with the request's fields."""


async def owner_headers(generation_token: OwnersToken = None) -> None:
    """Declares the header by which a generation's owner is known."""
