"""The gallery: what is in the page, and what it does in a browser."""

import html
import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import names
from PIL import Image

from accord.reports.gallery import (
    Entry,
    Shown,
    gallery_beside,
    of_frames,
    of_repairs,
    read_run,
    repairs_in,
    write_gallery,
)
from accord.reports.pictures import _hues, contact_sheet, thing_colors
from accord.types import InputError

HOSTILE = (
    "</script><script>document.title='owned'</script>",
    "<img src=x onerror=\"document.title='owned'\">",
    "<!--<script>",
    "{{script}} {{data}} & &lt;b&gt; \u2028 \\u003c \ud800 \U0001f980 a red star",
)


def picture(color: str = "red", size: tuple[int, int] = (64, 64)) -> Image.Image:
    return Image.new("RGB", size, color)


def row(number: int, prompt: str = "a red star", **more: Any) -> dict[str, Any]:
    return {"number": number, "prompt": prompt, "file_name": f"{number}.png", **more}


def word(prompt: str, text: str, probability: float, kind: str = "color", reads_as: str = "blue") -> dict[str, Any]:
    start = prompt.index(text)
    told = {"text": text, "kind": kind, "start": start, "end": start + len(text)}
    return {**told, "probability": probability, "reads_as": reads_as}


def data_of(index: Path) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', index.read_text("utf8"), re.S)
    return json.loads(found[1])


# --- the page -------------------------------------------------------------------------------------------------------
def test_a_page_is_one_file_that_asks_for_nothing(tmp_path):
    index = write_gallery(tmp_path / "run", [row(0, seed=3, score=0.5)], "a run", about={"model": "lab"})
    assert index == tmp_path / "run" / "index.html" and names(tmp_path / "run") == {"index.html"}
    text = index.read_text("utf8")
    assert not re.search(r"<link|<iframe|@import|url\(|src=[\"']?(?!\{)[a-z]+:", text) and "{{" not in text
    assert set(re.findall(r"https?://[\w./]+", text)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    data = data_of(index)
    assert (
        data["about"] == [["model", "lab"]] and data["rows"][0]["image"] == "0.png" and data["rows"][0]["seed"] == "3"
    )


def test_nothing_of_a_row_becomes_markup(tmp_path):
    rows = [row(i, p, tags=[p], reasons=[p], words=[{"text": p, "probability": 0.1}]) for i, p in enumerate(HOSTILE)]
    index = write_gallery(tmp_path, rows, HOSTILE[0], about={p: p for p in HOSTILE})
    text = index.read_text("utf8")
    assert text.count("<script") == 2 and text.count("</script>") == 2 and "<img" not in text and "<!--" not in text
    assert f"<title>{html.escape(HOSTILE[0])}</title>" in text
    assert [r["prompt"] for r in data_of(index)["rows"]] == list(HOSTILE)


def test_names_of_files_are_no_addresses(tmp_path):
    rows = [row(i) | {"file_name": n} for i, n in enumerate(["a b/#1?.png", "javascript:alert(1)", "100%.png"])]
    found = [r["image"] for r in data_of(write_gallery(tmp_path, rows, "t"))["rows"]]
    assert found == ["a%20b/%231%3F.png", "javascript%3Aalert%281%29", "100%25.png"]


def test_pictures_of_elsewhere_are_copied_and_no_place_is_told(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    picture().save(tmp_path / "elsewhere" / "small.png")
    picture("blue", (1600, 800)).save(tmp_path / "elsewhere" / "large.png")
    (tmp_path / "elsewhere" / "bad.png").write_bytes(b"no picture")
    places = [str(tmp_path / "elsewhere" / n) for n in ("small.png", "large.png", "bad.png", "gone.png")]
    index = write_gallery(tmp_path / "out", [row(i) | {"file_name": p} for i, p in enumerate(places)], "t")
    rows = data_of(index)["rows"]
    assert [r["image"] for r in rows] == ["thumbnails/00000.png", "thumbnails/00001.jpg", None, None]
    sizes = [Image.open(index.parent / r["image"]).size for r in rows[:2]]
    assert sizes == [(64, 64), (768, 384)]
    assert rows[2]["reasons"] == ["the picture bad.png cannot be read"]
    assert str(tmp_path) not in index.read_text("utf8")


@pytest.mark.parametrize("missing", ["number", "prompt", "file_name"])
def test_a_row_without_what_it_needs_is_refused(tmp_path, missing):
    with pytest.raises(InputError, match=f"no '{missing}'"):
        write_gallery(tmp_path, [{k: v for k, v in row(0).items() if k != missing}], "t")
    assert not names(tmp_path)


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(InputError, match="no picture for the gallery"):
        write_gallery(tmp_path, [], "t")


def test_numbers_that_are_none_are_left_out(tmp_path):
    nan = float("nan")
    rows = [row(0, score=nan, seconds=nan, words=[word("a red star", "red", nan)], regions=[])]
    found = data_of(write_gallery(tmp_path, rows, "t"))["rows"][0]
    assert found["score"] is None and found["seconds"] is None and found["words"][0]["p"] is None


def test_two_thousand_rows_are_a_small_page(tmp_path):
    prompt = "a red star to the left of a blue key"
    words = [word(prompt, w, 0.25) for w in ("red", "star", "blue", "key")]
    regions = [{"phrase": p, "box": [0.1, 0.2, 0.3, 0.4], "planned": False} for p in ("a red star", "a blue key")]
    rows = (row(i, prompt, words=words, regions=regions, score=i / 2000) for i in range(2000))
    began = time.process_time()
    index = write_gallery(tmp_path, rows, "t")
    assert time.process_time() - began < 5 and index.stat().st_size < 4e6


def test_more_rows_than_a_page_takes_are_said(tmp_path, monkeypatch):
    monkeypatch.setattr("accord.reports.gallery.MOST", 3)
    data = data_of(write_gallery(tmp_path, (row(i) for i in range(5)), "t"))
    assert len(data["rows"]) == 3 and data["about"] == [["shown", "the first 3 rows"]]


def test_runs_are_put_side_by_side_by_prompt_and_seed(tmp_path):
    here = [row(0, "a", seed=1, score=0.5), row(1, "b", seed=1), row(2, "a", seed=2), row(3, "c")]
    there = [row(7, "a", seed=2, score=0.1), row(8, "a", seed=1, score=0.9), row(3, "c"), row(1, "d", seed=1)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in there))
    for number in (3, 7, 8):
        picture().save(tmp_path / "b" / f"{number}.png")
    data = data_of(write_gallery(tmp_path / "a", here, "one", against=tmp_path / "b"))
    assert data["against"] == "b"
    assert [r["other"] and r["other"]["number"] for r in data["rows"]] == [8, None, 7, 3]
    assert data["rows"][0]["other"]["image"] == "thumbnails/b00000.png"  # the page can be moved without the other run
    shown = Shown("another", tmp_path / "b", there)
    assert data_of(write_gallery(tmp_path / "a", here, "one", against=shown))["against"] == "another"


def test_seeds_of_a_prompt_have_pictures_of_their_own(tmp_path):
    """All seeds of a prompt have its number."""
    colors = {"a": ("red", "green"), "b": ("blue", "white")}
    for run, found in colors.items():
        (tmp_path / run).mkdir()
        for seed, color in enumerate(found):
            picture(color).save(tmp_path / run / f"{seed}.png")
    rows = {r: [row(3, seed=s) | {"file_name": str(tmp_path / r / f"{s}.png")} for s in range(2)] for r in colors}
    index = write_gallery(tmp_path / "page", rows["a"], "t", against=Shown("b", tmp_path / "b", rows["b"]))
    data = data_of(index)["rows"]
    names = [(r["image"], r["other"]["image"]) for r in data]
    shown = [[Image.open(index.parent / n).getpixel((0, 0)) for n in pair] for pair in names]
    assert shown == [[(255, 0, 0), (0, 0, 255)], [(0, 128, 0), (255, 255, 255)]]


def test_rows_of_a_run_are_read(tmp_path):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as parquet

    rows = [row(0, words=[word("a red star", "red", 0.5)], tags=["color"], verdict=True)]
    parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert list(read_run(tmp_path).rows) == rows and read_run(tmp_path).title == tmp_path.name
    assert data_of(write_gallery(tmp_path, read_run(tmp_path).rows, "t"))["rows"][0]["tags"] == ["color"]


@pytest.mark.parametrize(("name", "content"), [("x", b""), ("rows.jsonl", b"{"), ("rows.parquet", b"no table")])
def test_a_folder_without_readable_rows_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=r"give the folder of a run|run the evaluation again"):
        read_run(tmp_path)


def test_the_gallery_of_a_file_is_beside_it():
    assert gallery_beside(Path("a/scores.csv")) == Path("a/scores-gallery")
    assert gallery_beside(Path("a/frames")) == Path("a/frames-gallery")


def test_frames_are_written_before_and_after(tmp_path):
    entries = list(of_frames(tmp_path, "a key", [picture("red")] * 2, [picture("blue")] * 2))
    assert [(e.number, e.before, e.file_name) for e in entries] == [
        (0, "frames/00000-before.png", "frames/00000-after.png"),
        (1, "frames/00001-before.png", "frames/00001-after.png"),
    ]
    assert Image.open(tmp_path / entries[1].before).getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(tmp_path / entries[1].file_name).getpixel((0, 0)) == (0, 0, 255)


def test_a_repair_is_right_if_each_of_its_words_is(tmp_path):
    def scored(*probabilities: float) -> dict[str, Any]:
        words = [
            {"text": "red", "kind": "color", "start": 2, "probability": p, "reads_as": "blue"} for p in probabilities
        ]
        phrases = [{"text": "a red star", "probability": 1}]
        return {"prompt": "a red star", "overall": 0.5, "words": words, "phrases": phrases, "unjudged": ["shiny"]}

    told = {"seed": 1, "improved": True, "regions": [], "folder": "out/000-x"}
    rows = [{**told, "before": scored(0.1), "after": scored(*a)} for a in ([0.6, 0.9], [0.6, 0.4], [])]
    entries = list(of_repairs(rows))
    assert [e.verdict for e in entries] == [True, False, None]
    assert (entries[0].before, entries[0].file_name) == ("000-x/before.png", "000-x/after.png")
    assert entries[0].reasons == ["not judged: shiny"] and entries[0].score_before == 0.5
    assert Entry.of_scores(0, "a.png", scored(0.1) | {"caption": "a blue star"}).caption == "a blue star"
    for name, one in zip(("00007-b", "00002-a", "thumbnails"), rows, strict=True):  # as a run from a file leaves them
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(one))
    assert [(e.number, e.file_name) for e in repairs_in(tmp_path)] == [
        (2, "00002-a/after.png"),
        (7, "00007-b/after.png"),
    ]


# --- colors ----------------------------------------------------------------------------------------------------------
NAMED = "red green blue yellow orange purple pink brown cyan magenta gold crimson teal".split()


@pytest.mark.parametrize("color", NAMED)
def test_no_thing_has_the_color_that_it_names(color):
    (hue,) = _hues(color)
    for said in ([[color]], [["white"], [color]], [[color]] * 12):
        found = thing_colors(said)
        for words, one in zip(said, found, strict=True):
            assert all(abs((hue - k + 180) % 360 - 180) > 30 for k in _hues(one)) or color not in words


def test_things_have_colors_of_their_own_and_not_those_of_others():
    assert len(set(thing_colors([["white"]] * 6))) == 6
    star, key = (_hues(c)[0] for c in thing_colors([["red"], ["blue"]]))
    assert star != key and all(abs((h - k + 180) % 360 - 180) > 30 for h in (star, key) for k in (0, 240))


def test_phrases_are_found_in_the_prompt_and_regions_name_them(tmp_path):
    prompt = "a star and a star"
    phrases, regions = [{"text": "a star"}] * 2, [{"phrase": "a star", "box": [-0.1, 0, 1.2, 1], "found_box": None}]
    found = data_of(write_gallery(tmp_path, [row(0, prompt, phrases=phrases, regions=regions)], "t"))["rows"][0]
    assert [(t["start"], t["end"]) for t in found["things"]] == [(0, 6), (11, 17)]
    cars = [{"phrase": "car", "box": [0, 0, 1, 1], "score": 0.5}, {"phrase": "bus", "box": [0, 0, 1, 1], "score": 0.5}]
    there = data_of(write_gallery(tmp_path, [row(0, "a carrot and a car", regions=cars)], "t"))["rows"][0]["things"]
    assert [t["start"] for t in there] == [15, None]  # what is not said is found too, as GenEval's detector does
    assert found["regions"] == [{"thing": 0, "found": [0, 0, 1, 1], "target": None}]


def test_a_contact_sheet_names_rows_and_columns():
    sheet = contact_sheet([[picture("red"), picture("blue")]] * 2, ["first", "second"], ["step 0", "step 9"], "a run")
    assert sheet.width == 150 + 2 * 200
    blank = contact_sheet([[picture("red"), picture("blue")]] * 2, ["", ""], ["", ""])
    below = sheet.height - 2 * 200
    assert sheet.getpixel((160, below + 5)) == (255, 0, 0) and sheet.getpixel((360, below + 205)) == (0, 0, 255)
    for box in (
        (0, below, 140, below + 30),
        (0, below + 200, 140, below + 230),
        (150, 0, 340, below),
        (350, 0, 540, below),
    ):
        assert len(sheet.crop(box).getcolors(10_000)) > 2, box
    assert blank.height == 2 * 200 + 8
    with pytest.raises(ValueError):
        contact_sheet([[picture()]], ["a"], ["b", "c"])


# --- in a browser ----------------------------------------------------------------------------------------------------
CHROMIUM = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars --virtual-time-budget=6000 "
    "--allow-file-access-from-files"
).split()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> None:
    """Skip where no Chromium is installed, or none that opens files of here (one in a box of its own does not)."""
    page = tmp_path_factory.mktemp("browser") / "page.html"
    page.write_text("<p>it opens</p>")
    if CHROMIUM is None or "it opens" not in dumped(page):
        pytest.skip("no Chromium is installed that opens files")


# what a test asks is run beside the page, as the page lets no other script run in itself
HARNESS = """<!doctype html><meta charset="utf-8"><title>waiting</title>
<iframe id="page" src="index.html%s" style="width:1200px;height:900px"></iframe><pre id="said"></pre><script>
const frame = document.getElementById("page");
const wait = (ms) => new Promise((done) => setTimeout(done, ms));
frame.addEventListener("load", async () => {
  const page = frame.contentDocument, win = frame.contentWindow, found = {};
  const $ = (s) => page.querySelector(s), all = (s) => [...page.querySelectorAll(s)];
  const shown = () => all(".card").map((c) => Number(c.dataset.row));
  const choose = (id, value) => { $(id).value = value; $(id).dispatchEvent(new win.Event("change")); };
  await wait(300);
  try { %s } catch (error) { found.error = String(error); }
  document.getElementById("said").textContent = JSON.stringify(found);
}, { once: true });
</script>"""


@pytest.fixture
def ask(tmp_path, browser) -> Callable[[str, str], dict[str, Any]]:
    """What a script finds out about the page `index.html` of `tmp_path`."""

    def asked(script: str, state: str = "") -> dict[str, Any]:
        (tmp_path / "harness.html").write_text(HARNESS % (state, script), encoding="utf8")
        text = dumped(tmp_path / "harness.html")
        said = re.search(r'<pre id="said">(.*?)</pre>', text, re.S)
        assert said and said[1], text[-2000:]
        found = json.loads(html.unescape(said[1]))
        assert "error" not in found, found["error"]
        return found

    return asked


def dumped(page: Path) -> str:
    profile = f"--user-data-dir={page.parent / 'profile'}"
    call = [str(CHROMIUM), *FLAGS, profile, "--dump-dom", page.as_uri()]
    return subprocess.run(call, capture_output=True, timeout=120).stdout.decode("utf8")


def test_sorting_filters_search_slider_and_details(tmp_path, ask):
    prompt = "a red star"
    for number in range(4):
        picture("red").save(tmp_path / f"{number}.png")
        picture("blue", (300, 150)).save(tmp_path / f"{number}-before.png")
    rows = [
        row(
            i,
            prompt if i < 3 else "two \U0001f980 green fish",
            score=score,
            score_before=before,
            before=f"{i}-before.png",
            tags=["color"] if i % 2 else ["count"],
            verdict=score > 0.5,
            words=[word(prompt, "red", score)] if i < 3 else [word("two \U0001f980 green fish", "green", 0.9)],
            phrases=[{"text": "a red star" if i < 3 else "two \U0001f980 green fish"}],
            regions=[
                {"phrase": "a red star", "box": [0.5, 0.5, 0.9, 0.9], "planned": True, "found_box": [0, 0, 0.3, 0.3]},
            ]
            if i == 0
            else [],
        )
        for i, (score, before) in enumerate([(0.4, 0.3), (0.2, 0.1), (0.9, 0.2), (0.8, 0.85)])
    ]
    write_gallery(tmp_path, rows, "a run")
    found = ask("""
      found.number = shown();
      for (const sort of ["worst", "best", "improved", "worsened"]) { choose("#sort", sort); found[sort] = shown(); }
      found.hash = win.location.hash;
      choose("#sort", "number");
      choose("#verdict", "wrong"); found.wrong = shown(); choose("#verdict", "");
      choose("#tag", "color"); found.color = shown(); choose("#tag", "");
      choose("#word", "-red"); found.missed = shown(); choose("#word", "+red"); found.asked = shown();
      $("#clear").click(); found.all = shown();
      $("#q").value = "FISH two"; $("#q").dispatchEvent(new win.Event("input")); await wait(400);
      found.search = shown(); found.count = $("#count").textContent;
      $("#clear").click();
      const slider = $(".card input[type=range]"), box = slider.parentElement;
      for (let i = 0; i < 30 && !(box.querySelector("svg") && box.querySelector(".crisp")); i++) await wait(100);
      found.label = slider.getAttribute("aria-label");
      slider.value = 20; slider.dispatchEvent(new win.Event("input"));
      found.at = box.style.getPropertyValue("--at");
      found.clip = win.getComputedStyle(box.querySelector(".before")).clipPath;
      found.crisp = ["after", "before"].map((n) => win.getComputedStyle(box.querySelector("." + n)).imageRendering);
      found.regions = ["rect.found", "rect.target", "line.arrow"].map((s) => box.querySelectorAll(s).length);
      found.dashed = box.querySelector("rect.target").hasAttribute("stroke-dasharray");
      found.boxes = win.getComputedStyle(box.querySelector("svg")).display;
      $("#regions").click(); await wait(100);
      found.hidden = win.getComputedStyle($(".card svg")).display;
      found.marked = all(".card")[3].querySelector(".word").textContent;
      found.low = [...all(".card")[0].querySelectorAll(".low")].map((x) => x.title);
      all(".card")[1].querySelector("button").click();
      found.open = $("#details").open; found.heading = $("#details .score").textContent;
      $("#details").dispatchEvent(new win.KeyboardEvent("keydown", { key: "ArrowRight", bubbles: true }));
      found.next = $("#details .facts").textContent; found.row = win.location.hash;
      $("#close").click(); await wait(100); found.closed = win.location.hash;
      found.theme = page.documentElement.dataset.theme;
      found.light = win.getComputedStyle(page.body).backgroundColor;
      $("#theme").click(); found.dark = win.getComputedStyle(page.body).backgroundColor; found.kept = win.location.hash;
      const named = (x) => x.labels?.length || x.ariaLabel || x.textContent;
      found.unnamed = all("input, select, button").filter((x) => !named(x)).length;
    """)
    assert found["number"] == found["all"] == [0, 1, 2, 3]
    assert found["worst"] == [1, 0, 3, 2] and found["best"] == [2, 3, 0, 1]
    assert found["improved"] == [2, 0, 1, 3] and found["worsened"] == [3, 0, 1, 2] and "sort=worsened" in found["hash"]
    assert found["wrong"] == [0, 1] and found["color"] == [1, 3] and found["missed"] == [0, 1]
    assert found["asked"] == [0, 1, 2] and found["search"] == [3] and found["count"] == "1 of 4 pictures"
    assert "before" in found["label"] and found["at"] == "20%" and "80%" in found["clip"]
    assert found["crisp"] == ["pixelated", "auto"]
    assert found["regions"] == [2, 2, 2] and found["dashed"] and (found["boxes"], found["hidden"]) == ("block", "none")
    assert found["marked"] == "green"  # characters are counted, not halves of them
    assert found["low"] == ["color 0.40, reads as blue"]
    assert found["open"] and found["heading"] == "0.10 → 0.20" and found["next"].startswith("#2")
    assert "row=2" in found["row"] and "row" not in found["closed"]
    assert found["theme"] == "light" and found["light"] != found["dark"] and "theme=dark" in found["kept"]
    assert found["unnamed"] == 0


def test_details_are_of_the_seed_that_was_asked_for(tmp_path, ask):
    picture().save(tmp_path / "0.png")
    why = {"verdict": False, "reasons": ["asked: red star; read: red moon", "wrong: noun"], "caption": "a red moon"}
    write_gallery(tmp_path, [row(0, seed=s, **why) | {"file_name": "0.png"} for s in range(3)], "t")
    script = """
      found.card = $(".card .missed").textContent;
      found.linked = $("#details .facts").textContent; $("#close").click(); await wait(100);
      all(".card")[2].querySelector("button").focus(); all(".card")[2].querySelector("button").click();
      found.opened = $("#details .facts").textContent; found.row = win.location.hash;
      $("#close").click(); await wait(100); found.label = page.activeElement.ariaLabel;
      found.focus = all(".card").indexOf(page.activeElement.closest(".card"));
    """
    found = ask(script, "#row=1")
    assert found["card"] == "asked: red star; read: red moon; wrong: noun; reads as: a red moon"
    assert "seed 1" in found["linked"] and "seed 2" in found["opened"] and found["row"] == "#row=2"
    assert found["focus"] == 2 and found["label"] == "details of picture 0, seed 2: a red star"


def test_a_hostile_page_runs_nothing_and_two_runs_are_beside_each_other(tmp_path, ask):
    picture().save(tmp_path / "0.png")
    read = [{"text": HOSTILE[1], "kind": "read", "probability": 0.1}]
    more = {"file_name": "0.png", "words": read}
    rows = [row(i, p, tags=[p], reasons=[p], score=0.5) | more for i, p in enumerate(HOSTILE[:3])]
    others = [{**r, "score": s} for r, s in zip(rows[:2], (0.9, 0.2), strict=True)]
    write_gallery(tmp_path, rows, HOSTILE[0], against=Shown(HOSTILE[1], tmp_path, others))
    found = ask(
        """
      found.title = page.title; found.low = all(".low, .missed").length;
      for (const x of all(".prompt .extra")) x.remove();
      found.prompts = all(".prompt").map((x) => x.textContent); found.cards = shown();
      found.pictures = all(".card .frame").map((x) => Boolean(x.querySelector("img")));
      found.scripts = all("script").length; found.summary = $("#summary").textContent;
      choose("#verdict", "behind"); found.behind = shown(); choose("#verdict", ""); choose("#sort", "ahead");
      found.ahead = shown();
      const extra = page.createElement("script"); extra.textContent = "document.title = 'owned'";
      page.body.append(extra);
      await wait(100); found.after = page.title;
    """,
        "#theme=dark&sort=nonsense",
    )
    assert found["title"] == found["after"] == HOSTILE[0] and found["prompts"] == list(HOSTILE[:3])
    assert found["low"] == 0  # what is read off a picture cannot be missed
    assert found["scripts"] == 2 and found["cards"] == [0, 1, 2]
    assert found["pictures"] == [True, True, True, True, False, True]  # what it is compared with comes first
    assert "1 won, 1 lost, 0 even" in found["summary"] and found["behind"] == [0] and found["ahead"] == [1, 0, 2]


def test_two_thousand_pictures_open_from_the_file_system(tmp_path, ask):
    picture().save(tmp_path / "0.png")
    rows = [row(i, score=i / 2000) | {"file_name": "0.png"} for i in range(2000)]
    write_gallery(tmp_path, rows, "t")
    found = ask("""
      found.count = $("#count").textContent; found.cards = shown().length;
      win.scrollTo(0, page.body.scrollHeight); win.dispatchEvent(new win.Event("scroll")); await wait(100);
      found.more = shown().length;
      choose("#sort", "best"); found.first = shown()[0];
      found.wide = page.documentElement.scrollWidth; frame.style.width = "400px"; await wait(100);
      found.narrow = page.documentElement.scrollWidth;
    """)
    assert found["count"] == "2,000 pictures" and 0 < found["cards"] < found["more"] < 400
    assert found["first"] == 1999
    assert found["wide"] <= 1200 and found["narrow"] <= 400
    assert "<article" in dumped(tmp_path / "index.html")  # and by itself


def test_an_entry_stays_as_it_is():
    entry = Entry(1, "a", "b.png")
    assert Entry.of(entry) is entry and Entry.of({**row(0), "tags": "color", "further": 1}).tags == ["color"]


def test_a_damaged_report_of_a_repair_is_one_sentence(tmp_path):
    folder = tmp_path / "00000-a-red-star-s1"
    folder.mkdir()
    (folder / "report.json").write_text("{}")
    with pytest.raises(InputError, match=r"report '.*report\.json' is not what accord realign wrote"):
        list(repairs_in(tmp_path))
