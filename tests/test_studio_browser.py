"""The studio in a real Chromium, on the lab: each room from a click to a picture, and what visitors do beside it."""

import re
import shutil
from pathlib import Path

import pytest

from accord_lab.bench.studio import Served

pytest.importorskip("fastapi")
playwright = pytest.importorskip("playwright.sync_api")

CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
VIDEO = Path(__file__).parents[1] / "docs" / "img" / "video.mp4"
LONG = 240_000  # milliseconds that a picture may take on a machine that has other work
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed"),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("studio")
    server = Served(folder, "--runs", str(folder / "runs"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(served, chromium):
    """Opens a page of a new visitor; what its scripts did not expect fails the test."""
    contexts, problems = [], []

    def open_page(path="", **settings):
        context = chromium.new_context(viewport={"width": 1200, "height": 900}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(LONG)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda m: problems.append(m.text) if "Content Security Policy" in m.text else None)
        page.goto(f"{served.url}/{path}")
        page.wait_for_selector("main h1")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def quick(page, prompt, steps=8, rounds=1):
    """Ask for a repair of few steps."""
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.get_by_label("Rounds at most").fill(str(rounds))
    page.locator("summary", has_text="Steps, guidance").first.click()
    page.get_by_label("Steps", exact=True).first.fill(str(steps))
    page.get_by_role("button", name="Make and repair").click()
    page.wait_for_url(re.compile(r"#/repair/[0-9a-f]{32}"))
    return page.url.rpartition("/")[2]


def client_of(served):
    from accord.studio.client import Client

    return Client(served.url)


def shown_picture(page, selector=".picture .frame img"):
    """The width of a picture that the page shows, once it is there."""
    page.wait_for_function(
        "s => { const i = document.querySelector(s); return i && i.complete && i.naturalWidth }", arg=selector
    )
    return page.evaluate("s => document.querySelector(s).naturalWidth", selector)


def test_repair_from_a_click_to_a_picture_and_again_at_another_place(served, visit):
    page = visit()
    prompt = "two yellow stars and a purple moon"
    quick(page, prompt, steps=12)
    page.get_by_text("things", exact=True).wait_for()
    page.wait_for_selector("img.preview")
    page.get_by_role("button", name=re.compile("^best")).wait_for()
    assert shown_picture(page, "img.after") == 64 and page.locator("img.before").count() == 1
    page.get_by_label(re.compile("before .* and after")).press("Home")
    assert page.locator(".overlay rect").count() >= 2
    page.locator("summary", has_text="Put a thing elsewhere").click()
    page.get_by_label("Thing").select_option("a purple moon")
    layer = page.locator(".place-layer").bounding_box()
    x, y, side = layer["x"], layer["y"], layer["width"]
    page.mouse.move(x + 0.05 * side, y + 0.5 * side)
    page.mouse.down()
    page.mouse.move(x + 0.45 * side, y + 0.95 * side, steps=4)
    page.mouse.up()
    assert 3 <= int(page.get_by_label("left of a purple moon, percent").input_value()) <= 7
    before = page.url
    page.get_by_role("button", name="Make and repair").click()
    page.wait_for_url(lambda url: url != before)
    page.get_by_role("button", name=re.compile("^best")).wait_for()
    job = client_of(served).job(page.url.rpartition("/")[2])
    assert job["request"]["places"][0]["thing"] == "a purple moon" and "--place" in job["command"]
    assert page.locator("pre.command").inner_text() == job["command"]
    page.get_by_text("Put a thing elsewhere (1)").wait_for()  # closed again: the slider can be moved
    frame = page.locator(".picture .frame").bounding_box()
    page.mouse.click(frame["x"] + 0.1 * frame["width"], frame["y"] + 0.93 * frame["height"])
    assert int(page.get_by_label(re.compile("before .* and after")).input_value()) < 30


def test_cancel_reload_and_two_visitors(served, visit):
    one, other = visit(), visit()
    first = quick(one, "a green fish and a pink heart", steps=150)
    second = quick(other, "a red star", steps=6, rounds=0)
    one.get_by_text("first picture").wait_for()
    one.reload()  # it goes on, and the page finds it again
    one.get_by_role("button", name="cancel", exact=True).click()
    one.get_by_text("cancelled", exact=True).first.wait_for()
    assert client_of(served).wait(second)["state"] == "done"
    assert client_of(served).job(first)["state"] == "cancelled"
    other.wait_for_selector(".picture img.after, .picture .frame img")
    assert one.locator("#jobs a").count() == other.locator("#jobs a").count() >= 2


def test_read_a_picture_and_see_where_a_phrase_is(served, visit, tmp_path):
    from PIL import Image, PngImagePlugin

    info = PngImagePlugin.PngInfo()
    info.add_text("parameters", "a green fish and a pink heart\nSteps: 20")
    source = Path(__file__).parents[1] / "docs" / "img" / "fish-heart-1.png"
    Image.open(source).convert("RGB").crop((0, 40, 384, 424)).resize((64, 64)).save(tmp_path / "a.png", pnginfo=info)
    page = visit("#/read")
    page.get_by_label("Drop a picture").set_input_files(tmp_path / "a.png")
    page.get_by_role("heading", name="Words read off the picture").wait_for()
    page.get_by_role("heading", name="Stated in the file").wait_for()
    phrase = page.get_by_role("button", name=re.compile("a green fish.*show where")).first
    page.get_by_text("The same on the command line").wait_for()
    phrase.click()
    assert shown_picture(page, "img.where") == 256 and phrase.get_attribute("aria-pressed") == "true"


def test_edit_a_video(served, visit):
    page = visit("#/edit")
    page.get_by_label("Drop a video").set_input_files(VIDEO)
    page.get_by_text("8 frames").wait_for()
    page.get_by_label("What the video shows", exact=True).fill("a red car on a white background")
    page.get_by_label("What it is to show", exact=True).fill("a blue fish on a white background")
    page.get_by_label("Frames", exact=True).fill("3")
    page.locator("summary", has_text="Tuning, steps").click()
    page.get_by_label("Steps of tuning").fill("2")
    page.get_by_label("Steps", exact=True).last.fill("4")
    page.get_by_role("button", name="Edit the video").click()
    page.get_by_role("heading", name="What changed and what stayed").wait_for()
    assert page.locator(".three figure").count() == 3
    page.get_by_label("frame", exact=True).press("ArrowRight")
    page.get_by_text("frame 2 of 3").wait_for()


def test_compare_two_models(served, visit):
    page = visit("#/compare")
    page.get_by_label("Prompts, one a line").fill("a red star\na green fish")
    page.get_by_label("Steps", exact=True).last.fill("4")
    page.get_by_role("button", name="Compare", exact=True).click()
    gallery = page.frame_locator("iframe.gallery")
    gallery.locator(".card").nth(1).wait_for()
    assert gallery.locator(".card").count() == 2 and page.get_by_text("Of 2 prompts B is better on").count() == 1


def test_a_bomb_is_refused_in_a_sentence(served, visit, tmp_path):
    from test_studio import bomb

    (tmp_path / "bomb.png").write_bytes(bomb(30_000, 30_000))
    page = visit("#/read")
    page.get_by_label("Drop a picture").set_input_files(tmp_path / "bomb.png")
    page.get_by_role("alert").get_by_text("bomb.png").wait_for()
    assert client_of(served).health()["status"] == "ok"


def test_markup_in_a_prompt_is_text(served, visit):
    page = visit()
    quick(page, "a red star <img src=x onerror=document.title='gone'>", steps=4, rounds=0)
    client_of(served).wait(page.url.rpartition("/")[2])
    page.locator("#jobs a[aria-current]").get_by_text("<img src=x").wait_for()
    assert page.locator("main img[src=x]").count() == 0 and "gone" not in page.title()


def test_a_killed_studio_loses_nothing(tmp_path):
    server = Served(tmp_path)
    studio = client_of(server)
    jobs = [studio.submit("repair", prompt=f"a {c} star", steps=12, rounds=0)["id"] for c in ("red", "blue", "green")]
    for kind, data in studio.events(jobs[0]):
        if kind == "step" and data["step"] >= 3:
            break
    server.kill()
    server.start()
    studio = client_of(server)
    try:
        assert [studio.wait(job)["state"] for job in jobs] == ["done"] * 3
        assert [job["id"] for job in studio.jobs()] == jobs[::-1]
    finally:
        server.kill()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_serious_finding_of_axe(served, visit, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    studio = client_of(served)
    done = next((j["id"] for j in studio.jobs() if j["room"] == "repair" and j["state"] == "done"), None)
    done = done or studio.repair("a red star and a blue key", steps=6, rounds=1)["id"]
    for path in (f"#/repair/{done}", "#/read", "#/edit", "#/compare"):
        for width in (400, 1200):
            page = visit(path, color_scheme=scheme, bypass_csp=True)
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(1500)
            found = axe.run(page).response["violations"]
            serious = [
                (v["id"], [n["target"] for n in v["nodes"]]) for v in found if v["impact"] in ("serious", "critical")
            ]
            assert serious == [], (path, width)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
