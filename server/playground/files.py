"""The page's files, read once. Standard library only.

The page is plain HTML, CSS and ES modules in `page/`; `page/vendor/` holds what others wrote, with its licences. The
policy below lets it load nothing from elsewhere and run nothing that is not a file of its own.
"""

import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
HOME_PATHS = ("/", "/playground")
CONTENT_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES = {".js": "text/javascript", ".md": "text/plain", ".txt": "text/plain"}


@dataclass(frozen=True, slots=True)
class PageFile:
    """One file as it is sent."""

    content: bytes
    media_type: str
    etag: str


def _read(path: Path) -> PageFile:
    content = path.read_bytes()
    media_type = _TYPES.get(path.suffix) or mimetypes.guess_type(path.name)[0] or "application/octet-stream"
    return PageFile(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:16]}"')


def _path_of(file: Path) -> str:
    return f"/playground/{file.relative_to(FOLDER).as_posix()}"


FILES = {_path_of(file): _read(file) for file in sorted(FOLDER.rglob("*")) if file.is_file()}
"""URL path -> file."""

PAGES = (*HOME_PATHS, *FILES)
"""All paths that the page is made of."""
