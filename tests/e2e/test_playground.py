"""The page in a real browser, as a person uses it. No test may end with an error in the console or a word to others."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Literal, get_args

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Locator,
    Page,
    Request,
    expect,
    sync_playwright,
)

from tests.e2e.conftest import Server
from valuemodels.contract.evaluation import EVALUATION_FILE
from valuemodels.sources.embedded import EMBEDDED_VALUES

pytestmark = pytest.mark.engine

PATIENCE_MS = 60_000
Scheme = Literal["light", "dark"]
RENDER = """async (text) => {
    const { markdown } = await import("/playground/markdown.js");
    const box = document.createElement("div");
    box.append(markdown(text));
    const all = [...box.querySelectorAll("*")];
    return {
        tags: all.map((each) => each.tagName),
        attributes: all.flatMap((each) => each.getAttributeNames().map((name) => `${name}=${each.getAttribute(name)}`)),
        text: box.textContent,
    };
}"""
DANGEROUS = (
    "# Hi\n![c](https://example.org/c.png) <img src=x onerror=alert(1)><script>alert(2)</script>"
    "[a](javascript:alert(3)) [b](https://example.org) <b onclick=alert(4)>c</b><style>*{display:none}</style>"
)
PROMPT = "Tell me about your garden in spring."


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    assert found, "these tests need Chromium (Debian: apt-get install chromium)"
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(viewport={"width": 1280, "height": 900})
    made.grant_permissions(["clipboard-read", "clipboard-write"])
    made.set_default_timeout(PATIENCE_MS)
    yield made
    made.close()


@pytest.fixture
def open_page(server: Server, context: BrowserContext) -> Iterator[Callable[..., Page]]:
    """Opens the page; at the end nothing may have gone wrong in any that were opened, nor left the server."""
    problems: list[str] = []

    def watch(page: Page, origin: str, *, may_fail: bool) -> None:
        def note_console(said: ConsoleMessage) -> None:
            if said.type == "error" and not may_fail:
                problems.append(said.text)

        def note_request(asked: Request) -> None:
            if not asked.url.startswith((origin, "blob:")):
                problems.append(asked.url)

        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", note_console)
        page.on("request", note_request)

    def go(
        fragment: str = "", *, origin: str = server.url, into: BrowserContext = context, fails: bool = False
    ) -> Page:
        page = into.new_page()
        watch(page, origin, may_fail=fails)
        page.goto(f"{origin}/{fragment}")
        return page

    yield go
    assert problems == []


def ask(page: Page, prompt: str = PROMPT, *, tokens: int = 120) -> Locator:
    """Send a prompt. Returns the last answer's first column."""
    page.get_by_text("Sampling", exact=True).click()
    page.get_by_label("tokens, at most").fill(str(tokens))
    page.get_by_label("tokens, at most").press("Tab")
    page.get_by_text("Sampling", exact=True).click()
    answers = page.locator(".message.assistant")
    before = answers.count()
    page.get_by_label("Message", exact=True).fill(prompt)
    page.get_by_label("Message", exact=True).press("Enter")
    expect(answers).to_have_count(before + 1)
    return page.locator(".message.assistant").last.locator(".column").first


def slider(page: Page, name: str) -> Locator:
    return page.get_by_role("slider", name=name, exact=True)


def finished(page: Page) -> None:
    expect(page.locator('[aria-busy="true"]')).to_have_count(0, timeout=PATIENCE_MS)
    expect(page.get_by_role("button", name="Write again").last).to_be_visible(timeout=PATIENCE_MS)


def words_of(column: Locator) -> str:
    """The text of a column, token by token, so that no formatting is in it."""
    button = column.get_by_role("button", name="Tokens")
    if button.get_attribute("aria-pressed") != "true":
        button.click()
    return "".join(column.locator(".token").all_text_contents())


def test_sliders_moved_by_mouse_and_keyboard_change_what_comes_next(open_page: Callable[..., Page]) -> None:
    page = open_page()
    moved = slider(page, "positivity")
    column = ask(page, tokens=400)
    expect(column.locator(".cost")).to_contain_text("tokens/s", timeout=PATIENCE_MS)
    expect(page.get_by_text("Live: what you move changes what comes next.")).to_be_visible()
    moved.focus()
    moved.press("End")
    expect(column.locator(".lane-parts i")).to_have_count(2, timeout=PATIENCE_MS)
    box = moved.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] - 8, box["y"] + box["height"] / 2)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 2, steps=4)
    page.mouse.up()
    expect(column.locator(".lane-parts i").nth(2)).to_be_visible(timeout=PATIENCE_MS)
    finished(page)
    said = column.locator(".ribbon").get_attribute("aria-label") or ""
    assert "positivity +2.00" in said and "positivity \N{MINUS SIGN}" in said, said


def test_a_token_shows_what_it_was_chosen_from(open_page: Callable[..., Page]) -> None:
    page = open_page()
    slider(page, "simplicity").press("End")
    page.get_by_label("shade tokens by").select_option("simplicity")
    column = ask(page, tokens=40)
    finished(page)
    words_of(column)
    assert any("color-mix" in (style or "") for style in [
        token.get_attribute("style") for token in column.locator(".token").all()
    ])  # fmt: skip
    column.locator(".token").nth(5).hover()
    table = column.locator(".candidates table")
    expect(table.locator("tbody tr.chosen")).to_have_count(1)
    assert table.locator("tbody tr").count() > 3
    column.locator(".tokens").focus()
    page.keyboard.press("ArrowRight")
    expect(column.locator(".token.here")).to_have_count(1)
    column.get_by_role("button", name="Chart").click()
    expect(column.locator(".chart canvas")).to_be_visible()


def test_a_link_opens_to_the_same_text_in_a_fresh_browser(
    open_page: Callable[..., Page], browser: Browser, server: Server
) -> None:
    """Also where the sliders were moved while it was written; and the curl command writes it, too."""
    page = open_page()
    column = ask(page, tokens=120)
    expect(column.locator(".cost")).to_contain_text("tokens/s", timeout=PATIENCE_MS)
    slider(page, "positivity").press("End")
    finished(page)
    written = words_of(column)
    assert column.locator(".lane-parts i").count() == 2
    column.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Link copied.")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    curl = page.get_by_label("Code", exact=True).text_content() or ""
    other = browser.new_context()
    replayed = open_page(link.removeprefix(server.url + "/"), into=other)
    finished(replayed)
    again = replayed.locator(".column").first
    assert words_of(again) == written
    expect(again.locator(".lane-parts i")).to_have_count(2)
    again.get_by_role("button", name="Replay").click()
    again.locator(".scrubber input").fill("7")
    assert len(words_of(again)) < len(written)
    other.close()
    answer = subprocess.run(["bash", "-c", curl], capture_output=True, check=True, text=True).stdout
    assert json.loads(answer)["choices"][0]["message"]["content"] == written
    for name in ("openai", "SDK"):
        page.get_by_role("button", name=name, exact=True).click()
        code = page.get_by_label("Code", exact=True).text_content() or ""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
        assert done.stdout.removesuffix("\n") == written, done.stderr[-2000:]


def test_a_link_to_a_later_answer_brings_the_conversation(
    open_page: Callable[..., Page], browser: Browser, server: Server
) -> None:
    page = open_page()
    ask(page, tokens=20)
    finished(page)
    column = ask(page, "And then?", tokens=20)
    finished(page)
    written = words_of(column)
    column.get_by_role("button", name="Share").click()
    page.get_by_role("button", name="Copy link").click()
    expect(page.get_by_text("Link copied.")).to_be_visible()
    link = page.evaluate("navigator.clipboard.readText()")
    other = browser.new_context()
    opened = open_page(link.removeprefix(server.url + "/"), into=other)
    expect(opened.locator(".message")).to_have_count(4)
    finished(opened)
    assert words_of(opened.locator(".column").last) == written
    other.close()


def test_columns_compare_the_base_with_the_tilt_at_one_seed(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_label("second column").select_option("base")
    slider(page, "positivity").press("End")
    ask(page, tokens=60)
    finished(page)
    columns = page.locator(".column")
    expect(columns).to_have_count(2)
    expect(columns.nth(0).locator("h3")).to_have_text("positivity +2.00")
    expect(columns.nth(1).locator("h3")).to_have_text("as the base writes")
    assert words_of(columns.nth(0)) != words_of(columns.nth(1))
    expect(columns.nth(0).locator(".cost")).to_contain_text("the base's speed")


def test_characters_branches_edits_and_stops(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_role("button", name="Grumpy").click()
    expect(slider(page, "positivity")).to_have_value("-1")
    first = ask(page, tokens=30)
    finished(page)
    before = words_of(first)
    page.get_by_role("button", name="Write again").click()
    finished(page)
    expect(page.get_by_text("2 of 2")).to_be_visible()
    page.get_by_role("button", name="Branch before").click()
    assert words_of(page.locator(".column").first) == before
    page.get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("And in winter?")
    page.get_by_role("button", name="Send as a new branch").click()
    expect(page.get_by_text("And in winter?").first).to_be_visible(timeout=PATIENCE_MS)
    finished(page)
    expect(page.locator(".message.user")).to_have_count(1)
    page.reload()
    expect(page.get_by_text("And in winter?").first).to_be_attached(timeout=PATIENCE_MS)
    column = ask(page, tokens=2000)
    expect(column.locator(".cost")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Stop").click()
    expect(column.get_by_text("Stopped.")).to_be_visible()


def test_nine_answers_over_two_sliders_and_one_to_go_on_from(open_page: Callable[..., Page]) -> None:
    page = open_page()
    page.get_by_role("button", name="Map").click()
    asked: list[Any] = []
    page.on("request", lambda request: asked.append(request.post_data_json) if "completions" in request.url else None)
    page.get_by_role("button", name="Write nine answers").click()
    cells = page.locator(".map .cell")
    expect(cells).to_have_count(9)
    expect(page.locator(".map .cell:enabled")).to_have_count(9, timeout=PATIENCE_MS)
    written = [text.strip() for text in page.locator(".map .cell span").all_text_contents()]
    assert all(written) and len(set(written)) > 4
    assert [len(request["schedule"]) for request in asked] == [9], "one request, so that they are one batch"
    cells.nth(2).click()
    expect(slider(page, "positivity")).to_have_value("1")
    expect(slider(page, "simplicity")).to_have_value("1")
    expect(page.locator(".message.user")).to_contain_text("Tell me about your day.")
    ask(page, "Go on.", tokens=20)
    finished(page)
    expect(page.locator(".message.assistant")).to_have_count(2)


def test_a_measured_point_sets_the_sliders(open_page: Callable[..., Page]) -> None:
    rows = json.loads((EMBEDDED_VALUES / EVALUATION_FILE).read_text(encoding="utf-8"))["rows"]
    of_two = [row for row in rows if row["setting"]["weights"].keys() <= {"positivity", "simplicity"}]
    (sunny,) = (row for row in rows if row["setting"]["weights"] == {"positivity": 1.0})
    shift = f"{sunny['objectives']['positivity']['shift']['value']:.2f}".replace(".", "[.]")
    page = open_page()
    page.get_by_role("button", name="Measured").click()
    expect(page.locator(".front button")).to_have_count(len(of_two))
    page.get_by_role("button", name=re.compile(f"^positivity .1.00: positivity .{shift}")).click()
    expect(slider(page, "positivity")).to_have_value("1")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_the_page_is_drawn_though_the_server_answers_before_the_browser_has_time_for_more(
    context: BrowserContext, open_page: Callable[..., Page]
) -> None:
    context.add_init_script(
        "const later = setTimeout; setTimeout = (f, ms = 0, ...rest) => later(f, ms + 2000, ...rest)"
    )
    page = open_page()
    expect(page.get_by_role("button", name="Measured")).to_be_visible()


def test_what_a_model_writes_is_never_markup_of_the_page(open_page: Callable[..., Page]) -> None:
    page = open_page()
    shown = page.evaluate(RENDER, DANGEROUS)
    assert set(shown["tags"]) == {"H1", "P", "A"}, shown
    assert set(shown["attributes"]) == {
        "href=https://example.org", "target=_blank", "rel=noopener noreferrer nofollow",
    }  # fmt: skip
    assert "<img src=x onerror=alert(1)>" in shown["text"]


@contextmanager
def breakable(server: Server) -> Iterator[tuple[str, Callable[[], None]]]:
    """A relay to the server, and what cuts all that runs through it: to a browser the server has died.

    Connections that are made after the cut are relayed again: it has been started anew.
    """
    port = int(server.url.rsplit(":", 1)[1])
    listener = socket.create_server(("127.0.0.1", 0))
    sockets: list[socket.socket] = []

    def pump(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        target.close()

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", port))
            sockets.extend((near, far))
            for pair in ((near, far), (far, near)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    def cut() -> None:
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        sockets.clear()

    threading.Thread(target=accept, daemon=True).start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}", cut
    listener.close()
    cut()


def test_a_server_that_dies_is_a_sentence_and_the_page_goes_on_when_it_is_back(
    open_page: Callable[..., Page], server: Server
) -> None:
    with breakable(server) as (origin, cut):
        page = open_page(origin=origin, fails=True)
        column = ask(page, tokens=2000)
        expect(column.locator(".cost")).to_be_visible(timeout=PATIENCE_MS)
        cut()
        expect(column.get_by_role("alert")).to_contain_text("The answer broke off")
        expect(column.locator(".formatted")).not_to_be_empty()
        page.get_by_label("tokens, at most").evaluate(
            "box => { box.value = 20; box.dispatchEvent(new Event('change')); }"
        )
        page.get_by_role("button", name="Try again").click()
        finished(page)
        expect(page.get_by_text("2 of 2")).to_be_visible()


def test_a_phone_shows_all_of_it_without_scrolling_sideways(open_page: Callable[..., Page], browser: Browser) -> None:
    phone = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True)
    page = open_page(into=phone)
    slider(page, "positivity").press("End")
    ask(page, tokens=30)
    finished(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    phone.close()


@pytest.mark.parametrize("scheme", get_args(Scheme))
def test_nothing_bars_people_who_see_or_move_less(
    open_page: Callable[..., Page], browser: Browser, scheme: Scheme
) -> None:
    own = browser.new_context(color_scheme=scheme, reduced_motion="reduce")
    page = open_page(into=own)
    slider(page, "positivity").press("End")
    column = ask(page, tokens=30)
    finished(page)
    words_of(column)
    column.locator(".token").nth(2).hover()
    found = Axe().run(page)
    serious = [v for v in found.response["violations"] if v["impact"] in ("serious", "critical")]
    assert serious == [], json.dumps([(v["id"], [n["html"] for n in v["nodes"]][:3]) for v in serious], indent=1)
    own.close()
