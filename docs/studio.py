"""Records `docs/img/studio.gif` and makes the pictures of the studio beside it.

    python docs/studio.py

A real studio on the lab is driven in a headless Chromium, which has to be installed, as has playwright. The pointer is
drawn in, and what is waited for is shown shorter than it took.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, PngImagePlugin
from playwright.sync_api import Page, sync_playwright

from accord.studio.client import Client
from accord_lab.bench.studio import Served

PICTURES = Path(__file__).parent / "img"
VIDEO = PICTURES / "video.mp4"
PROMPT, SEED, THING = "two yellow stars and a purple moon", 1, "a purple moon"
WIDTH, HEIGHT = 900, 740  # of the recording
COLORS, SAMPLED = 192, 12  # of the recording, and frames that they are chosen from
TYPED, MOVED, WORKED, SEEN, HELD = 70, 40, 110, 700, 2600  # milliseconds that a frame of each kind is shown
POINTER = ((0, 0), (0, 16), (4, 12), (7, 19), (10, 18), (7, 11), (12, 11))


class Recording:
    """Frames of a page with their times, the pointer drawn in."""

    def __init__(self, page: Page) -> None:
        self.page, self.at = page, (WIDTH // 2, HEIGHT // 2)
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def take(self, milliseconds: int) -> None:
        """The page as it is now; one that has not changed is shown longer."""
        image = Image.open(BytesIO(self.page.screenshot(animations="disabled", caret="initial"))).convert("RGB")
        draw = ImageDraw.Draw(image)
        draw.polygon([(x + self.at[0], y + self.at[1]) for x, y in POINTER], fill="black", outline="white")
        if self.frames and image.tobytes() == self.frames[-1].tobytes():
            self.times[-1] = max(self.times[-1], milliseconds)
        else:
            self.frames.append(image)
            self.times.append(milliseconds)

    def move(self, x: float, y: float, frames: int = 6) -> None:
        """The pointer goes there, and what it holds goes along."""
        begun = self.at
        for i in range(1, frames + 1):
            self.at = tuple(round(a + (b - a) * i / frames) for a, b in zip(begun, (x, y), strict=True))
            self.page.mouse.move(*self.at)
            self.take(MOVED)

    def click(self, what: Any) -> None:
        what.scroll_into_view_if_needed()
        place = what.bounding_box()
        self.move(place["x"] + min(place["width"] / 2, 60), place["y"] + place["height"] / 2)
        self.take(300)
        self.page.mouse.click(*self.at)

    def write(self, text: str) -> None:
        """Typed letter by letter; after each word it is seen how the words are understood."""
        written = ""
        for part in re.findall(r"\S+\s*", text):
            for letter in part:
                self.page.keyboard.type(letter)
                self.take(TYPED)
            written += part
            understood = "t => document.querySelector('.understood').textContent.startsWith(t)"
            self.page.wait_for_function(understood, arg=written.strip())
            self.take(3 * TYPED)

    def until(self, done: Callable[[], bool]) -> None:
        """Each new picture of the page until this is true."""
        while not done():
            self.take(WORKED)
            self.page.wait_for_timeout(60)
        self.page.wait_for_timeout(400)
        self.take(SEEN)

    def save(self, path: Path) -> None:
        """One palette for all frames, so that what stays the same costs nothing."""
        sample = Image.new("RGB", (WIDTH, SAMPLED * HEIGHT))
        for i in range(SAMPLED):
            sample.paste(self.frames[(i + 1) * (len(self.frames) - 1) // SAMPLED], (0, i * HEIGHT))
        palette = sample.quantize(COLORS, dither=Image.Dither.NONE)
        first, *rest = [f.quantize(palette=palette, dither=Image.Dither.NONE) for f in self.frames]
        first.save(path, save_all=True, append_images=rest, duration=self.times, loop=0, optimize=True)


def record(page: Page) -> Recording:
    """A prompt is typed, repaired and compared with its first picture; then the moon is put elsewhere."""
    recording = Recording(page)
    prompt = page.get_by_label("Prompt", exact=True)
    prompt.fill("")
    page.get_by_label("Seed", exact=True).first.fill(str(SEED))
    page.wait_for_timeout(500)
    recording.take(SEEN)
    recording.click(prompt)
    recording.write(PROMPT)
    _repaired(recording)
    _slide(recording, 0.05, 0.95, 0.5)
    recording.click(page.locator("summary", has_text="Put a thing elsewhere"))
    page.get_by_label("Thing").select_option(THING)
    recording.take(SEEN)
    frame = page.locator(".picture .frame").bounding_box()
    x, y, side = frame["x"], frame["y"], frame["width"]
    recording.move(x + 0.6 * side, y + 0.03 * side)
    page.mouse.down()
    recording.move(x + 0.98 * side, y + 0.41 * side, frames=8)
    page.mouse.up()
    recording.take(SEEN)
    _repaired(recording)
    _slide(recording, 0.02)
    recording.take(HELD)
    return recording


def _slide(recording: Recording, *shares: float) -> None:
    """Drag the bar between before and after to these shares of the width, from the middle."""
    frame = recording.page.locator(".picture .frame").bounding_box()
    x, y, side = frame["x"], frame["y"] + 0.93 * frame["height"], frame["width"]
    recording.move(x + side / 2, y)
    recording.page.mouse.down()
    for share in shares:
        recording.move(x + share * side, y, frames=8)
        recording.take(SEEN)
    recording.page.mouse.up()


def _repaired(recording: Recording) -> None:
    page, before = recording.page, recording.page.url
    recording.click(page.get_by_role("button", name="Make and repair"))
    page.wait_for_url(lambda url: url != before)
    page.evaluate("scrollTo(0, 0)")
    best = page.get_by_role("button", name=re.compile("^best"))
    best.wait_for(state="detached")  # that of the job before
    recording.until(lambda: best.count() > 0)


def shoot(page: Page, url: str, path: str, name: str, ready: Callable[[Page], None]) -> None:
    """A picture of a page of its own, once it shows what is wanted."""
    page.goto(f"{url}/{path}")
    page.reload()
    ready(page)
    page.mouse.move(5, 5)
    page.wait_for_timeout(600)
    image = Image.open(BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    image.quantize(128, dither=Image.Dither.NONE).save(PICTURES / name, optimize=True)


def read_page(page: Page) -> None:
    page.get_by_text("The same on the command line").wait_for()
    page.get_by_role("button", name=re.compile(f"{THING}.*show where")).first.click()


def edit_page(page: Page) -> None:
    page.get_by_role("heading", name="What changed and what stayed").wait_for()
    page.get_by_label("frame", exact=True).press("ArrowRight")
    page.evaluate("document.activeElement.blur()")


def repair_page(page: Page) -> None:
    page.get_by_role("button", name=re.compile("^best")).wait_for()


def pictures(browser: Any, studio: Client, folder: Path) -> None:
    """Repair and Read in the light, Edit in the dark."""
    repaired = next(j["id"] for j in studio.jobs()[::-1])
    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", PROMPT)
    Image.open(BytesIO(studio.file(repaired, "before.png"))).save(folder / "stars.png", pnginfo=info)
    read = studio.read(folder / "stars.png")["id"]
    told = {"source": "a red car on a white background", "target": "a blue fish on a white background"}
    edit = studio.wait(studio.submit("edit", upload=studio.upload(VIDEO), frames=8, **told)["id"])["id"]
    for scheme, path, name, height, ready in (
        ("light", f"#/repair/{repaired}", "studio-repair.png", 1060, repair_page),
        ("light", f"#/read/{read}", "studio-read.png", 1060, read_page),
        ("dark", f"#/edit/{edit}", "studio-edit.png", 930, edit_page),
    ):
        page = browser.new_page(viewport={"width": 1200, "height": height}, color_scheme=scheme)
        shoot(page, studio.url, path, name, ready)
        page.close()


def main() -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with tempfile.TemporaryDirectory() as scratch, Served(Path(scratch)) as served, sync_playwright() as driver:
        studio = Client(served.url)
        warm = studio.repair("a red star", steps=4)["id"]
        studio.forget(warm)
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page.set_default_timeout(240_000)
        page.goto(served.url)
        page.wait_for_selector("main h1")
        record(page).save(PICTURES / "studio.gif")
        page.close()
        pictures(browser, studio, Path(scratch))
        browser.close()
    for name in ("studio.gif", "studio-repair.png", "studio-read.png", "studio-edit.png"):
        print(f"{PICTURES / name}: {(PICTURES / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
