"""A picture and a short animation of the page, made with a running server.

    make serve &
    python -m tests.shots [--url http://127.0.0.1:8000] [--out docs/images]

Needs Chromium. Writes playground.png and playground.gif.
"""

import argparse
import io
import shutil
import time
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, ViewportSize, sync_playwright

SIZE: ViewportSize = {"width": 1180, "height": 720}
FRAME_S = 0.25
GIF_WIDTH = 820
PROMPT = "Tell me about your garden in spring."


def main() -> None:
    """Take both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE, color_scheme="light")
        page.goto(options.url)
        frames = _steered(page)
        page.get_by_role("button", name="Tokens").click()
        page.get_by_label("shade tokens by").select_option("positivity")
        page.locator(".token").nth(4).hover()
        page.locator(".candidates table").wait_for()
        page.wait_for_timeout(300)
        page.screenshot(path=options.out / "playground.png")
        browser.close()
    first, *rest = frames
    first.save(
        options.out / "playground.gif", save_all=True, append_images=rest, duration=int(FRAME_S * 1000), loop=0,
        optimize=True,
    )  # fmt: skip


def _steered(page: Page) -> list[Image.Image]:
    """Write a text whose slider goes down and up again; the frames of that."""
    frames: list[Image.Image] = []
    page.get_by_role("slider", name="positivity").press("End")
    page.get_by_label("Message", exact=True).fill(PROMPT)
    page.get_by_label("Message", exact=True).press("Enter")
    began = time.monotonic()
    moves = [(1.2, "Home"), (2.4, "End")]
    while time.monotonic() - began < 5:
        if moves and time.monotonic() - began > moves[0][0]:
            page.get_by_role("slider", name="positivity").press(moves.pop(0)[1])
        frames.append(_frame(page))
        page.wait_for_timeout(FRAME_S * 1000)
    page.get_by_role("button", name="Write again").wait_for(timeout=60_000)
    return [*frames, _frame(page)]


def _frame(page: Page) -> Image.Image:
    shot = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    small = shot.resize((GIF_WIDTH, round(shot.height * GIF_WIDTH / shot.width)))
    return small.quantize(64)


if __name__ == "__main__":
    main()
