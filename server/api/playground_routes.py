"""The page with the sliders at `/` and `/playground`, and its files.

Runs in the HTTP process. No torch, no vLLM.
"""

from http import HTTPStatus

from fastapi import APIRouter, Request
from fastapi.responses import Response

from server.playground.files import CONTENT_POLICY, FILES, HOME_PATHS, INDEX, PageFile

router = APIRouter()
_HEADERS = {
    "Content-Security-Policy": CONTENT_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # asked for again each time, and sent again only where it has changed
}


async def page_file(raw_request: Request) -> Response:
    """A file of the page, or 304 where the browser has it."""
    path = raw_request.scope["path"].removeprefix(raw_request.scope.get("root_path", ""))
    return _answer(raw_request, FILES.get(path, FILES[f"/playground/{INDEX}"]))


def _answer(raw_request: Request, file: PageFile) -> Response:
    headers = {**_HEADERS, "ETag": file.etag}
    if raw_request.headers.get("If-None-Match") == file.etag:
        return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
    return Response(file.content, media_type=file.media_type, headers=headers)


for _path in (*HOME_PATHS, *FILES):
    router.add_api_route(_path, page_file, methods=["GET", "HEAD"], include_in_schema=False)
