"""Results as files and pages."""

import base64
import html
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import names
from PIL import Image

from accord.files import check_writable, save_folder, write_file
from accord.prompts.phrases import phrases_of
from accord.reports.page import missed_text, page, words_html, words_text
from accord.reports.pictures import draw_regions, enlarge, found_and_target, in_a_row, labelled_row
from accord.reports.results import Realigned, Scored
from accord.types import Alignment, InputError, Phrase, Prompt, Region, Word, WordScore

PROMPT = phrases_of("a red star to the left of a blue key")


def alignment(prompt=PROMPT, probability: float = 0.25, reads_as: str = "blue") -> Alignment:
    words = tuple(WordScore(w, probability, reads_as, 1 - probability) for w in prompt.words)
    return Alignment(prompt, probability, words, "a blue star", 0.5, 0.125)


def picture(color: str = "white", side: int = 64) -> Image.Image:
    return Image.new("RGB", (side, side), color)


def region(phrase: int, box, planned: bool = False, caption: str = "a star") -> Region:
    return Region(phrase, box, np.zeros((16, 16), dtype=np.float32), caption, 0.75, planned)


def realigned(**kwargs) -> Realigned:
    regions = (region(0, (0.125, 0.125, 0.5, 0.5)), region(1, (0.625, 0.5, 0.9, 0.9), planned=True, caption=""))
    values = {
        "prompt": PROMPT,
        "seed": 7,
        "before": picture("red"),
        "after": picture("blue"),
        "alignment_before": alignment(),
        "alignment_after": alignment(probability=0.75),
        "regions": regions,
        "rounds": 1,
        "denoiser_calls": 100,
    }
    return Realigned(**(values | kwargs))


def assert_self_contained(text: str) -> None:
    sources = re.findall(r"""(?:src|href|srcset|data)\s*=\s*["']?([^"'\s>]+)""", text)
    assert sources and all(s.startswith("data:image/png;base64,") for s in sources)
    rest = re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?:|//|<script|<link|<iframe|@import|url\(", rest)


def embedded(text: str) -> list[Image.Image]:
    return [Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"base64,([A-Za-z0-9+/=]+)", text)]


# --- saving --------------------------------------------------------------------------------------------------------
def test_scored_saves_its_files_and_nothing_else(tmp_path):
    folder = tmp_path / "deep" / "out"
    assert Scored(picture("red"), alignment()).save(folder) == folder
    assert names(folder) == {"image.png", "score.json", "index.html"}
    assert Image.open(folder / "image.png").getpixel((0, 0)) == (255, 0, 0)
    data = json.loads((folder / "score.json").read_text(encoding="utf8"))
    assert data == alignment().to_dict() and data["overall"] == 0.25
    text = (folder / "index.html").read_text(encoding="utf8")
    assert_self_contained(text)
    assert [i.size for i in embedded(text)] == [(384, 384)]
    assert "reads as: a blue star" in text


def test_realigned_saves_its_files_and_nothing_else(tmp_path):
    result = realigned()
    result.save(str(tmp_path / "out"))
    folder = tmp_path / "out"
    assert names(folder) == {"before.png", "after.png", "strip.png", "report.json", "index.html"}
    assert Image.open(folder / "before.png").getpixel((0, 0)) == (255, 0, 0)
    assert Image.open(folder / "after.png").getpixel((0, 0)) == (0, 0, 255)
    data = json.loads((folder / "report.json").read_text(encoding="utf8"))
    assert data == result.to_dict() and data["improved"] is True and data["seed"] == 7
    assert [(r["phrase"], r["planned"], r["box"][0]) for r in data["regions"]] == [
        ("a red star", False, 0.125),
        ("a blue key", True, 0.625),
    ]
    text = (folder / "index.html").read_text(encoding="utf8")
    assert_self_contained(text)
    assert len(embedded(text)) == 3 and "seed 7, 1 rounds, 100 denoiser calls" in text


def test_saving_again_replaces_the_files(tmp_path):
    Scored(picture("red"), alignment()).save(tmp_path)
    (tmp_path / "mine.txt").write_text("kept")
    Scored(picture("blue"), alignment(probability=0.75)).save(tmp_path)
    assert names(tmp_path) == {"image.png", "score.json", "index.html", "mine.txt"}
    assert Image.open(tmp_path / "image.png").getpixel((0, 0)) == (0, 0, 255)


def test_no_improvement_is_reported_as_none():
    assert not realigned(alignment_after=alignment()).improved


def test_a_failed_save_leaves_nothing_behind(tmp_path):
    def fill(target: Path) -> None:
        (target / "half.txt").write_text("half")
        raise OSError(28, "No space left on device")

    with pytest.raises(InputError, match="No space left"):
        save_folder(tmp_path / "out", fill)
    assert names(tmp_path / "out") == set()

    def wrong(target: Path) -> None:
        (target / "half.txt").write_text("half")
        raise KeyError("bug")

    with pytest.raises(KeyError):
        save_folder(tmp_path / "out", wrong)
    assert names(tmp_path / "out") == set()


def test_a_folder_in_the_way_is_refused_and_no_part_stays(tmp_path):
    (tmp_path / "after.png").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        realigned().save(tmp_path)
    assert names(tmp_path) == {"after.png"}


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("no folder")
    for target in (tmp_path / "file", tmp_path / "file" / "out"):
        for attempt in (realigned().save, Scored(picture(), alignment()).save, check_writable):
            with pytest.raises(InputError, match=re.escape(f"{str(target)!r} cannot be written")):
                attempt(target)
    with pytest.raises(InputError, match="cannot be written"):
        write_file(tmp_path / "file" / "x.csv", b"")
    assert names(tmp_path) == {"file"} and (tmp_path / "file").read_text() == "no folder"


def test_check_writable_makes_nothing(tmp_path):
    assert check_writable(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert check_writable(tmp_path) == tmp_path
    assert names(tmp_path) == set()


def test_write_file_replaces_and_leaves_no_part(tmp_path):
    write_file(tmp_path / "new" / "x.csv", b"one")
    write_file(tmp_path / "new" / "x.csv", b"two")
    assert names(tmp_path / "new") == {"x.csv"} and (tmp_path / "new" / "x.csv").read_bytes() == b"two"


def test_write_file_onto_a_folder_is_refused_and_leaves_no_part(tmp_path):
    (tmp_path / "x.csv").mkdir()
    with pytest.raises(InputError, match=r"x\.csv' is a folder"):
        write_file(tmp_path / "x.csv", b"one")
    assert names(tmp_path) == {"x.csv"}


# --- words ---------------------------------------------------------------------------------------------------------
def test_words_html_colors_words_from_red_to_green():
    text = words_html(alignment(probability=0.25))
    assert text.count("<span") == len(PROMPT.words) and text.count("hsl(30,") == len(PROMPT.words)
    assert 'title="0.25, reads as blue: 0.75"' in text
    good = words_html(alignment(probability=1.0))
    assert "hsl(120," in good and "reads as" not in good
    assert "hsl(0," in words_html(alignment(probability=0.0))


def with_markup(text: str, *nouns: str) -> Prompt:
    """A prompt whose text is not plain, as one that somebody made by hand."""
    words = [Word(noun, text.index(noun), text.index(noun) + len(noun), "noun") for noun in nouns]
    return Prompt(text, tuple(Phrase(w.text, w.start, w.end, w, (w,)) for w in words))


def test_words_html_keeps_the_text_of_the_prompt():
    prompt = with_markup('A <b>red</b> star & two "blue" keys, <script>alert(1)</script>', "star", "keys")
    text = words_html(alignment(prompt, reads_as='"><img src=x>'))
    assert "<b>" not in text and "<script" not in text and "<img" not in text
    bare = re.sub(r"<sub>[\d.]+</sub>|<[^>]+>", "", text)
    assert html.unescape(bare) == prompt.text


def test_what_was_not_judged_is_said():
    prompt = replace(with_markup("a star, <b>8k</b>", "star"), beyond=(Word("<b>8k</b>", 8, 17, "other"),))
    found = Alignment(prompt, None, (), reason="nothing to <check>")
    assert found.unjudged == ("star", "<b>8k</b>")
    text = words_html(found)
    assert "not judged: star, &lt;b&gt;8k&lt;/b&gt;" in text and "no score: nothing to &lt;check&gt;" in text
    assert words_text(found).splitlines() == ["no score: nothing to <check>", "not judged: star, <b>8k</b>"]
    assert found.to_dict()["overall"] is None and found.to_dict()["reason"] == "nothing to <check>"


@pytest.mark.parametrize("saved", ["scored", "realigned"])
def test_pages_escape_prompts_and_captions(tmp_path, saved):
    prompt = with_markup("a <script>alert(1)</script> star & a <img src=http://x> key", "star", "key")
    found = Alignment(prompt, 0.5, alignment(prompt).words, "<script>said</script>")
    if saved == "scored":
        result = Scored(picture(), found)
    else:
        regions = (region(0, (0.1, 0.1, 0.4, 0.4), caption="<script>there</script>"),)
        result = realigned(prompt=prompt, alignment_before=found, alignment_after=found, regions=regions)
    text = (result.save(tmp_path) / "index.html").read_text(encoding="utf8")
    assert "<script" not in text and text.count("<img") == (1 if saved == "scored" else 3)
    assert "&lt;script&gt;said" in text


def test_words_text_names_what_a_missing_word_reads_as():
    assert words_text(alignment()).splitlines()[1] == "red: 0.25, reads as blue: 0.75"
    assert words_text(alignment(probability=0.75)).splitlines()[1] == "red: 0.75"


def test_page_escapes_its_title():
    assert "<title>&lt;b&gt; &amp;</title>" in page("<b> &", "")


def test_notebook_views_hold_the_picture():
    scored, result = Scored(picture("red"), alignment()), realigned()
    assert embedded(scored._repr_html_())[0].convert("RGB").getpixel((5, 5)) == (255, 0, 0)
    assert Image.open(io.BytesIO(scored._repr_png_())).size == (384, 384)
    assert Image.open(io.BytesIO(result._repr_png_())).size == result.strip().size


def test_phrase_scores_are_geometric_means_of_their_words():
    star, _ = PROMPT.phrases
    probabilities = dict(zip(star.words, (0.5, 0.25, 0.5), strict=True))
    words = tuple(WordScore(w, probabilities.get(w, 1.0), "x", 0.0) for w in PROMPT.words)
    found = Alignment(PROMPT, 0.5, words).phrases
    assert found == pytest.approx(((0.5 * 0.25 * 0.5) ** (1 / 3), 1.0))
    assert Alignment(PROMPT, 1.0, ()).phrases == (1.0, 1.0)


# --- drawing -------------------------------------------------------------------------------------------------------
def changed(regions) -> np.ndarray:
    before = np.asarray(enlarge(picture()))
    return (np.asarray(draw_regions(picture(), PROMPT, regions)) != before).any(-1)


def test_a_found_region_has_a_whole_frame_and_a_label():
    mask = changed((region(0, (0.25, 0.25, 0.75, 0.75)),))
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    assert rows[0] == columns[0] == 96 and rows[-1] == columns[-1] == 286
    assert mask[96:287, 96].all() and mask[96:287, 286].all() and mask[286, 96:287].all()
    assert mask[98:108, 100:150].mean() > 0.5  # the label
    assert not mask[120:280, 105:280].any()


def test_a_planned_region_is_dashed():
    solid = changed((region(0, (0.25, 0.25, 0.75, 0.75)),))
    dashed = changed((region(0, (0.25, 0.25, 0.75, 0.75), planned=True),))
    edge = slice(120, 280)
    assert solid[edge, 286].all() and 0.3 < dashed[edge, 286].mean() < 0.7


def test_phrases_have_their_own_colors():
    boxes = (0.1, 0.1, 0.4, 0.4), (0.6, 0.6, 0.9, 0.9)
    image = draw_regions(picture(), PROMPT, tuple(region(i, b) for i, b in enumerate(boxes)))
    assert image.getpixel((40, 150)) != image.getpixel((232, 340)) != (255, 255, 255)


@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.99, 0.99, 1.0, 1.0), (0.5, 0.5, 0.5, 0.5)])
def test_regions_at_the_edges_can_be_drawn(box):
    assert changed((region(0, box), region(1, box, planned=True))).any()


def test_a_phrase_over_two_lines_can_be_drawn():
    prompt = phrases_of("a red\nstar")
    assert draw_regions(picture(), prompt, (region(0, (0.1, 0.1, 0.9, 0.9)),)).size == (384, 384)


def test_drawing_leaves_the_picture_as_it_was():
    image = picture()
    draw_regions(image, PROMPT, (region(0, (0, 0, 1, 1)),))
    assert np.array_equal(np.asarray(image), np.asarray(picture()))


def test_strip_shows_before_regions_and_after_side_by_side():
    result = realigned()
    strip = result.strip()
    assert strip.width == 3 * 384 + 2 * 8 and 384 + 60 < strip.height < 384 + 160
    shown = [enlarge(result.before), draw_regions(result.before, PROMPT, result.regions), enlarge(result.after)]
    for k, panel in enumerate(shown):
        assert same(strip.crop((392 * k, strip.height - 384, 392 * k + 384, strip.height)), panel)
    assert strip.getpixel((388, strip.height - 100)) == (255, 255, 255)


def test_strip_says_its_prompt_and_the_alignments():
    """And what was missed, where something was."""
    fine = alignment(probability=0.55)
    strip = realigned(alignment_before=fine).strip()
    top = strip.height - 384
    written = ink(strip.crop((0, 0, strip.width, top)))
    lines = np.flatnonzero(written.any(1))
    assert len(np.flatnonzero(np.diff(lines) > 2)) == 1  # the prompt, and below it a label for each picture
    gap = lines[np.flatnonzero(np.diff(lines) > 2)[0]] + 1
    assert written[:gap].any(0).nonzero()[0][-1] > 250
    for k in range(3):
        below = written[gap:, 392 * k : 392 * k + 384].any(0).nonzero()[0]
        assert below[0] < 5 and 40 < below[-1] < (384 if k == 1 else 120)  # what is dashed is said there
    # another prompt, or another alignment, is another label, and only that
    other = realigned(alignment_before=alignment(probability=0.61)).strip()
    changed = np.asarray(other) != np.asarray(strip)
    assert changed[gap:top, :384].any() and not changed[:gap].any() and not changed[:, 384:].any()
    after = realigned(alignment_before=fine, alignment_after=alignment(probability=0.97)).strip()
    changed = np.asarray(after) != np.asarray(strip)
    assert changed[gap:top, 784:].any() and not changed[:, :784].any() and not changed[top:].any()
    other = realigned(prompt=phrases_of("a green star and a pink key"), alignment_before=fine).strip()
    changed = np.asarray(other)[:top] != np.asarray(strip)[:top]
    assert changed[:gap].any() and not changed[gap:].any()


def test_strip_says_what_was_missed():
    low, fine = alignment(probability=0.25), alignment(probability=0.55)
    assert missed_text(fine) == "" and missed_text(low).startswith(
        ": a reads as blue, red reads as blue, star reads as"
    )
    strips = [realigned(alignment_before=fine, alignment_after=a).strip() for a in (fine, low)]
    tall, taller = (s.height - 384 for s in strips)
    assert tall < taller  # of three lines and more
    said = ink(strips[1].crop((784, 0, 784 + 384, taller)))
    assert said.sum() > 3 * ink(strips[0].crop((784, 0, 784 + 384, tall)))[20:].sum()


def test_a_planned_place_has_an_arrow_from_where_it_was_found():
    found, planned = (0.0, 0.0, 0.2, 0.2), (0.7, 0.7, 1.0, 1.0)
    plain = Region(0, planned, np.zeros((16, 16), dtype=np.float32), "", 0.9, True)
    for later, middle in ((plain, False), (replace(plain, found=found), True)):
        drawn = np.asarray(draw_regions(picture(), PROMPT, (later,))) != 255
        assert drawn[180:220, 180:220].any() == middle and drawn[:70, :70].any() == middle
    stays = replace(plain, planned=False, found=(0.72, 0.72, 0.9, 0.9))  # it is shown where it was found, and no arrow
    drawn = np.asarray(draw_regions(picture(), PROMPT, (stays,))) != 255
    assert drawn[276:280, 300:340].all() and not drawn[:270].any() and not drawn[350:, 350:].any()


def test_a_place_is_a_target_if_it_was_planned_or_is_elsewhere():
    here, near, far = (0.0, 0.0, 0.2, 0.2), (0.0, 0.1, 0.2, 0.3), (0.0, 0.5, 0.2, 0.7)
    assert found_and_target(here, False, None) == (here, None) and found_and_target(here, True, None) == (None, here)
    assert found_and_target(near, False, here) == (here, None) and found_and_target(near, True, here) == (here, near)
    assert found_and_target(far, False, here) == (here, far)


def same(a: Image.Image, b: Image.Image) -> bool:
    return np.array_equal(np.asarray(a), np.asarray(b))


def ink(image: Image.Image) -> np.ndarray:
    """Where there is dark writing."""
    return np.asarray(image.convert("L")) < 128


@pytest.mark.parametrize(("side", "factor"), [(1, 192), (64, 3), (100, 2), (191, 2), (192, 1), (500, 1)])
def test_a_row_leaves_its_pictures_as_they_are_and_shows_small_ones_larger(side, factor):
    rng = np.random.default_rng(side)
    panels = [Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(3)]
    row, large = labelled_row(panels, ["a", "b", "c"], "abc"), side * factor
    assert row.width == 3 * large + 2 * 8 and row.height > large + 30
    for k, panel in enumerate(panels):
        x = k * (large + 8)
        shown = np.asarray(row.crop((x, row.height - large, x + large, row.height)))
        assert np.array_equal(shown, np.asarray(panel).repeat(factor, 0).repeat(factor, 1))
        assert ink(row.crop((x, 0, x + 20, row.height - large))).any()
    assert same(labelled_row(panels[:1]), panels[0].resize((large, large), Image.Resampling.NEAREST))


def test_pictures_of_several_sizes_stand_on_one_line():
    row = labelled_row([picture("red", 200), picture("blue", 300)], ["", "b"])
    assert row.size == (508, row.height) and row.getpixel((0, row.height - 201)) == (255, 255, 255)
    assert row.getpixel((0, row.height - 200)) == (255, 0, 0) and row.getpixel((208, row.height - 300)) == (0, 0, 255)
    with pytest.raises(ValueError, match="zip"):
        labelled_row([picture()], ["a", "b"])


TEXTS = [
    "two yellow stars " * 117,  # of 2,000 letters
    "x" * 20_000,
    "",
    " \n\t ",
    "東京の猫と犬" * 300,
    "é ü ß Ж λ – “quoted” … 🙂 \u202e \x00 \x1b[31m \ud800",
    "ﷺ" * 500,
    "a\nb\r\nc",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_can_be_a_label(text):
    """It wraps, is cut where it is too long, and stays over its own picture."""
    row = labelled_row([picture(), picture()], [text, ""], text)
    top = row.height - 192
    assert row.width == 392 and top <= 8 + 3 * 30 + 5 * 20 + 8
    assert same(row.crop((0, top, 192, row.height)), picture(side=192))
    assert ink(row.crop((0, 0, 392, top))).any() == bool(text.strip())
    labels = labelled_row([picture(), picture()], [text, ""])
    assert not ink(labels.crop((192, 0, 392, labels.height - 192))).any()


def test_long_labels_take_more_lines_and_end_in_dots_when_there_is_no_room():
    one, two, most, more = (labelled_row([picture()], ["star " * n]) for n in (2, 8, 200, 400))
    assert one.height < two.height < most.height and same(most, more)
    whole = labelled_row([picture()], ["star " * 23])
    assert not same(whole, most)  # of the last line's dots


def test_what_the_font_has_not_is_a_question_mark_and_accents_are_dropped():
    for shown, text in (("???", "猫🙂Ж"), ("cafe", "café"), ("'a' - \"b\"", "‘a’ – “b”"), ("? b", "\ud800\nb")):
        assert same(labelled_row([picture()], [text]), labelled_row([picture()], [shown])), text
    assert not same(labelled_row([picture()], ["cafe"]), labelled_row([picture()], ["cave"]))


def test_rows_one_below_the_other_are_on_white():
    sheet = in_a_row([picture("red", 10), picture("blue", 20)], across=False)
    assert sheet.size == (20, 30) and sheet.getpixel((15, 5)) == (255, 255, 255)


@pytest.mark.parametrize(("side", "shown"), [(64, 384), (100, 300), (384, 384), (500, 500)])
def test_enlarge_takes_whole_steps(side, shown):
    assert enlarge(picture(side=side)).size == (shown, shown)
