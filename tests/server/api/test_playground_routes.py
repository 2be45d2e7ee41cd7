"""The page's files as they are served: under which policy, to whom, and how often."""

import re
from pathlib import Path

import httpx
import pytest

from server.api import playground_routes
from server.playground.files import FILES, FOLDER, PAGES
from tests.server.kit import FakeEngine, api_keys, make_app


@pytest.fixture
def page_app(engine: FakeEngine) -> httpx.ASGITransport:
    app = make_app(engine, keys=api_keys(kids={}))
    app.include_router(playground_routes.router)
    return httpx.ASGITransport(app=app)


async def test_every_file_is_served_without_a_key_and_under_the_policy(page_app: httpx.ASGITransport) -> None:
    async with httpx.AsyncClient(transport=page_app, base_url="http://test") as http:
        for path in PAGES:
            answer = await http.get(path)
            assert answer.status_code == 200, path
            policy = answer.headers["Content-Security-Policy"]
            assert "default-src 'none'" in policy and "unsafe" not in policy and "http" not in policy
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await http.get("/")).headers["Content-Type"].startswith("text/html")
        assert (await http.get("/playground/app.js")).headers["Content-Type"].startswith("text/javascript")
        assert (await http.head("/playground")).status_code == 200
        assert (await http.get("/v1/profiles")).status_code == 401


async def test_a_file_that_the_browser_has_is_not_sent_again(page_app: httpx.ASGITransport) -> None:
    async with httpx.AsyncClient(transport=page_app, base_url="http://test") as http:
        first = await http.get("/playground/app.js")
        again = await http.get("/playground/app.js", headers={"If-None-Match": first.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")
        assert (await http.get("/playground/../cli.py")).status_code in (401, 404)


def test_what_the_page_names_is_there() -> None:
    """Would catch a script, a style or a module that is not served, and one from elsewhere."""
    for path, file in FILES.items():
        text = file.content.decode()
        if "vendor" in path:
            assert "sourceMappingURL" not in text, path
            continue
        for name in re.findall(r'(?:from|import\() ?"(\./[^"]+)"', text):
            target = (Path(path).parent / name).as_posix()
            assert target in FILES, f"{path} imports {name}"
        for name in re.findall(r'(?:href|src)="(playground/[^"]+)"', text):
            assert f"/{name}" in FILES, f"{path} names {name}"
        assert not re.search(r'(?:src|href)="https?://', text), path


def test_what_others_wrote_carries_its_licence_and_version() -> None:
    vendor = FOLDER / "vendor"
    pinned = (vendor / "VERSIONS.txt").read_text()
    script = (Path(__file__).parents[3] / "deploy" / "vendor_page.sh").read_text()
    for path in [*vendor.glob("*.js"), *vendor.glob("*.css")]:
        assert (vendor / f"LICENSE-{path.name.split('.')[0]}.txt").is_file(), path
        name, package = next(line.split() for line in pinned.splitlines() if line.startswith(path.name))
        assert f"fetch {package} " in script, f"{name} is not of the version that the script fetches"


def test_all_javascript_together_is_small() -> None:
    import gzip

    size = sum(len(gzip.compress(path.read_bytes(), 9)) for path in FOLDER.rglob("*.js"))
    assert size <= 100_000
