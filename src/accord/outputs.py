"""Results that show themselves: pictures with regions drawn, words coloured by probability, one self-contained page."""

from __future__ import annotations

import base64
import html
import io
import json
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from accord.files import save_folder
from accord.types import Alignment, Prompt, Region

_SHOWN = 384  # side of a picture on a page
GAP = 8  # between the pictures of a row
_LEAST = 192  # width of a picture under which no label is readable
_LINES = {"title": 3, "label": 5}  # at most
_LIKE = str.maketrans("‘’“”–—", "''\"\"--")
_PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf")
_STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222;background:#fff}
figure{display:inline-block;margin:0 1.2em 1em 0;vertical-align:top}figcaption{max-width:384px}
img{image-rendering:pixelated;width:384px;border:1px solid #ccc}.w{padding:1px 4px;border-radius:4px}
small{color:#666}table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #ddd}"""


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def in_a_row(images: list[Image.Image], across: bool = True) -> Image.Image:
    """Pictures side by side, or one below the other."""
    width, height = ([i.size[k] for i in images] for k in (0, 1))
    out = Image.new("RGB", (sum(width), max(height)) if across else (max(width), sum(height)), "white")
    at = 0
    for image in images:
        out.paste(image, (at, 0) if across else (0, at))
        at += image.size[0 if across else 1]
    return out


def labelled_row(panels: Sequence[Image.Image], labels: Sequence[str] = (), title: str = "") -> Image.Image:
    """Pictures side by side on white, each under its label, all under a title: read without the file's name.

    Narrow ones are shown larger, pixels kept crisp. They stand at the bottom, GAP apart.

    Args:
        labels: one a picture, or none.
    """
    shown = [_widened(p.convert("RGB")) for p in panels]
    width, height = sum(p.width for p in shown) + GAP * (len(shown) - 1), max(p.height for p in shown)
    size = min(20, max(14, width // 80))  # a wide row is shown smaller
    heading = _wrapped(title, _font(size + 4), width, _LINES["title"])
    said = (
        [_wrapped(s, _font(size), p.width, _LINES["label"]) for s, p in zip(labels, shown, strict=True)]
        if labels
        else []
    )
    line, large = sum(_font(size).getmetrics()), sum(_font(size + 4).getmetrics())
    above, under = GAP * bool(heading) + large * len(heading), line * max(map(len, said), default=0)
    top = above + under + GAP * bool(above or under)
    out = Image.new("RGB", (width, top + height), "white")
    draw = ImageDraw.Draw(out)
    for k, text in enumerate(heading):
        draw.text((0, GAP + large * k), text, fill="#222", font=_font(size + 4))
    x = 0
    for i, panel in enumerate(shown):
        for k, text in enumerate(reversed(said[i]) if said else ()):
            draw.text((x, above + under + GAP // 2 - line * (k + 1)), text, fill="#222", font=_font(size))
        out.paste(panel, (x, top + height - panel.height))
        x += panel.width + GAP
    return out


def _widened(image: Image.Image) -> Image.Image:
    factor = max(1, -(-_LEAST // image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with Pillow: the same picture on every machine."""
    return ImageFont.load_default(size)  # type: ignore[return-value]


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int, most: int) -> list[str]:
    """Lines of at most `width` pixels and at most so many; what is cut ends in dots.

    The font has ASCII alone: accents are dropped, and of other scripts each letter is a question mark.
    """
    letters = unicodedata.normalize("NFKD", " ".join(text[: most * width].split()).translate(_LIKE))
    words = "".join(c if " " <= c <= "~" else "?" for c in letters if not unicodedata.combining(c)).split()
    lines: list[str] = []
    line = ""
    for word in words:
        if len(lines) > most:
            break
        if font.getlength(f"{line} {word}".strip()) <= width:
            line = f"{line} {word}".strip()
            continue
        lines += [line] * bool(line)
        while font.getlength(word) > width and len(word) > 1 and len(lines) <= most:
            fits = _fitting(word, font, width)
            lines.append(word[:fits])
            word = word[fits:]
        line = word
    lines += [line] * bool(line)
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        lines = [*lines[: most - 1], f"{last.rstrip()}..."]
    return lines


def _fitting(word: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many of its first letters are at most `width` pixels; at least one."""
    return max(1, bisect_right(range(1, len(word)), float(width), key=lambda k: font.getlength(word[:k])))


def enlarge(image: Image.Image, side: int = _SHOWN) -> Image.Image:
    """Small pictures shown large, pixels kept crisp."""
    factor = max(1, side // max(image.size))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def draw_regions(image: Image.Image, prompt: Prompt, regions: tuple[Region, ...]) -> Image.Image:
    """The picture with each region's box and phrase; a dashed box was planned for something missing."""
    big = enlarge(image)
    draw = ImageDraw.Draw(big)
    for k, region in enumerate(regions):
        color = _PALETTE[region.phrase % len(_PALETTE)]
        x0, y0, x1, y1 = (v * s for v, s in zip(region.box, (*big.size, *big.size), strict=True))
        box = (x0 + k, y0 + k, max(x1 - 2 - k, x0 + k + 1), max(y1 - 2 - k, y0 + k + 1))
        if region.planned:
            _dashed(draw, box, color)
        else:
            draw.rectangle(box, outline=color, width=3)
        label = " ".join(f"{prompt.phrases[region.phrase].text} {1 - region.deficit:.2f}".split())
        width = draw.textlength(label) + 6
        draw.rectangle((box[0], box[1], box[0] + width, box[1] + 14), fill=color)
        draw.text((box[0] + 3, box[1] + 1), label, fill="white")
    return big


def _dashed(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], color: str, dash: int = 9) -> None:
    x0, y0, x1, y1 = (int(v) for v in box)
    for x in range(x0, x1, 2 * dash):
        for y in (y0, y1):
            draw.line((x, y, min(x + dash, x1), y), fill=color, width=3)
    for y in range(y0, y1, 2 * dash):
        for x in (x0, x1):
            draw.line((x, y, x, min(y + dash, y1)), fill=color, width=3)


def words_html(alignment: Alignment) -> str:
    """The prompt with each checkable word coloured from red (missing) to green (there)."""
    text, out, position = alignment.prompt.text, [], 0
    for score in sorted(alignment.words, key=lambda s: s.word.start):
        word = score.word
        if word.start < position:
            continue
        hue = int(120 * score.probability)
        tip = f"{score.probability:.2f}"
        if score.probability < 0.5:
            tip += f", reads as {score.reads_as}: {score.reads_as_probability:.2f}"
        out.append(html.escape(text[position : word.start]))
        out.append(
            f'<span class="w" style="background:hsl({hue},75%,80%)" title="{html.escape(tip)}">'
            f"{html.escape(text[word.start : word.end])}<sub>{score.probability:.2f}</sub></span>"
        )
        position = word.end
    return "".join([*out, html.escape(text[position:])])


def words_text(alignment: Alignment) -> str:
    """One line a word, for a terminal: `red: 0.12, reads as blue: 0.85`."""
    lines = []
    for s in alignment.words:
        line = f"{s.word.text}: {s.probability:.2f}"
        if s.probability < 0.5:
            line += f", reads as {s.reads_as}: {s.reads_as_probability:.2f}"
        lines.append(line)
    return "\n".join(lines)


def _figure(image: Image.Image, caption: str) -> str:
    data = base64.b64encode(png(image)).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def page(title: str, body: str) -> str:
    """A self-contained HTML page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{body}</body></html>"
    )


@dataclass(frozen=True)
class Scored:
    """A picture and its alignment."""

    image: Image.Image
    alignment: Alignment

    def to_dict(self) -> dict[str, Any]:
        return self.alignment.to_dict()

    def _repr_html_(self) -> str:
        a = self.alignment
        note = f"{words_html(a)}<br><small>alignment {a.overall:.2f}; reads as: {html.escape(a.caption)}</small>"
        return f"<style>{_STYLE}</style>" + _figure(enlarge(self.image), note)

    def _repr_png_(self) -> bytes:
        return png(enlarge(self.image))

    def save(self, folder: str | Path) -> Path:
        """Write `image.png`, `score.json` and `index.html`."""

        def fill(target: Path) -> None:
            (target / "image.png").write_bytes(png(self.image))
            (target / "score.json").write_text(json.dumps(self.to_dict(), indent=1), encoding="utf8")
            (target / "index.html").write_text(page(self.alignment.prompt.text, self._repr_html_()), encoding="utf8")

        return save_folder(folder, fill)


@dataclass(frozen=True)
class Realigned:
    """A picture before and after repair.

    Attributes:
        before, after: the pictures; the same where nothing better was found.
        alignment_before, alignment_after: their alignments.
        regions: where each thing was put in the picture kept (or tried, if no try was better).
        rounds: how often the picture was redone.
        denoiser_calls: network evaluations spent on it, both halves of guidance counted.
        seed_after: of the noise of `after`, where it is another than `seed` (mode "new_seed").
    """

    prompt: Prompt
    seed: int
    before: Image.Image
    after: Image.Image
    alignment_before: Alignment
    alignment_after: Alignment
    regions: tuple[Region, ...]
    rounds: int
    denoiser_calls: int
    seed_after: int | None = None

    @property
    def improved(self) -> bool:
        return self.alignment_after.overall > self.alignment_before.overall

    def to_dict(self) -> dict[str, Any]:
        return {
            "prompt": self.prompt.text,
            "seed": self.seed,
            "seed_after": self.seed if self.seed_after is None else self.seed_after,
            "rounds": self.rounds,
            "denoiser_calls": self.denoiser_calls,
            "improved": self.improved,
            "before": self.alignment_before.to_dict(),
            "after": self.alignment_after.to_dict(),
            "regions": [
                {
                    "phrase": self.prompt.phrases[r.phrase].text,
                    "box": [round(v, 4) for v in r.box],
                    "caption": r.caption,
                    "deficit": r.deficit,
                    "planned": r.planned,
                }
                for r in self.regions
            ],
        }

    def strip(self) -> Image.Image:
        """Before, regions and after side by side, under the prompt and with the alignments."""
        parts = [enlarge(self.before), draw_regions(self.before, self.prompt, self.regions), enlarge(self.after)]
        before, after = (a.overall for a in (self.alignment_before, self.alignment_after))
        return labelled_row(parts, [f"before {before:.2f}", "regions", f"after {after:.2f}"], self.prompt.text)

    def _repr_html_(self) -> str:
        b, a = self.alignment_before, self.alignment_after
        rows = "".join(
            f"<tr><td>{html.escape(self.prompt.phrases[r.phrase].text)}</td><td>{html.escape(r.caption) or '-'}</td>"
            f"<td>{r.deficit:.2f}</td><td>{'placed' if r.planned else 'found'}</td></tr>"
            for r in self.regions
        )
        table = f"<table><tr><th>phrase</th><th>what is there</th><th>deficit</th><th>region</th></tr>{rows}</table>"
        return (
            f"<style>{_STYLE}</style><h3>{html.escape(self.prompt.text)}</h3>"
            + _figure(
                enlarge(self.before),
                f"before, {b.overall:.2f}<br>{words_html(b)}<br><small>reads as: {html.escape(b.caption)}</small>",
            )
            + _figure(
                draw_regions(self.before, self.prompt, self.regions), "regions: dashed = a place for what was missing"
            )
            + _figure(
                enlarge(self.after),
                f"after, {a.overall:.2f}<br>{words_html(a)}<br><small>reads as: {html.escape(a.caption)}</small>",
            )
            + (table if self.regions else "")
            + f"<p><small>seed {self.seed}{'' if self.seed_after is None else f' (after: {self.seed_after})'}, "
            f"{self.rounds} rounds, {self.denoiser_calls} denoiser calls</small></p>"
        )

    def _repr_png_(self) -> bytes:
        return png(self.strip())

    def save(self, folder: str | Path) -> Path:
        """Write `before.png`, `after.png`, `strip.png`, `report.json` and `index.html`, all or nothing."""

        def fill(target: Path) -> None:
            (target / "before.png").write_bytes(png(self.before))
            (target / "after.png").write_bytes(png(self.after))
            (target / "strip.png").write_bytes(png(self.strip()))
            (target / "report.json").write_text(json.dumps(self.to_dict(), indent=1), encoding="utf8")
            (target / "index.html").write_text(page(self.prompt.text, self._repr_html_()), encoding="utf8")

        return save_folder(folder, fill)
