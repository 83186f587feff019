"""Pictures for people: side by side under labels, enlarged, with regions drawn."""

from __future__ import annotations

import colorsys
import io
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache

from PIL import Image, ImageColor, ImageDraw, ImageFont

from accord.types import Prompt, Region

_SHOWN = 384  # side of a picture on a page
GAP = 8  # between the pictures of a row
_LEAST = 192  # width of a picture under which no label is readable
_LINES = {"title": 3, "label": 5}  # at most
_LIKE = str.maketrans("‘’“”–—", "''\"\"--")
_PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#bcbd22", "#8c564b")
_LIKE_HUE = 45  # degrees between two hues that are taken for one color


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
    shown = [enlarge(p.convert("RGB"), width=_LEAST) for p in panels]
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


def enlarge(image: Image.Image, side: int = _SHOWN, width: int | None = None) -> Image.Image:
    """Small pictures shown large, pixels kept crisp: of at most `side` pixels, or at least `width` across."""
    factor = max(1, side // max(image.size) if width is None else -(-width // image.width))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def thing_colors(said: Sequence[Sequence[str]]) -> list[str]:
    """A color for each thing, as "#rrggbb": none that its own words name, another one for each while there are enough.

    Args:
        said: words of each thing; those that name no color are passed over.
    """
    chosen: list[str] = []
    for words in said:
        hues = [h for w in words for h in _hues(w)]
        fit = [c for c in _PALETTE if all(_apart(h, k) > _LIKE_HUE for h in hues for k in _hues(c))] or list(_PALETTE)
        chosen.append(min(fit, key=chosen.count))
    return chosen


def _hues(text: str) -> list[float]:
    """The hues in degrees of the colors that a text names, "#rrggbb" or words of CSS; greys have none."""
    out = []
    for word in text.lower().split():
        try:
            red, green, blue = ImageColor.getrgb(word)[:3]
        except ValueError:
            continue
        hue, saturation, _ = colorsys.rgb_to_hsv(red / 255, green / 255, blue / 255)
        out += [360 * hue] if saturation > 0.2 else []
    return out


def _apart(one: float, other: float) -> float:
    return abs((one - other + 180) % 360 - 180)


def draw_regions(image: Image.Image, prompt: Prompt, regions: tuple[Region, ...]) -> Image.Image:
    """The picture with each region's box and phrase; a dashed box was planned for something missing."""
    big = enlarge(image)
    draw = ImageDraw.Draw(big)
    colors = thing_colors([[w.text for w in p.words if w.kind == "color"] for p in prompt.phrases])
    for k, region in enumerate(regions):
        color = colors[region.phrase]
        x0, y0, x1, y1 = (v * s for v, s in zip(region.box, (*big.size, *big.size), strict=True))
        box = (x0 + k, y0 + k, max(x1 - 2 - k, x0 + k + 1), max(y1 - 2 - k, y0 + k + 1))
        if region.planned and region.found is not None:
            start = [v * s for v, s in zip(region.found, (*big.size, *big.size), strict=True)]
            draw.rectangle((start[0], start[1], start[2] - 2, start[3] - 2), outline=color, width=2)
            _arrow(draw, ((start[0] + start[2]) / 2, (start[1] + start[3]) / 2), ((x0 + x1) / 2, (y0 + y1) / 2), color)
        if region.planned:
            _dashed(draw, box, color)
        else:
            draw.rectangle(box, outline=color, width=3)
        label = " ".join(f"{prompt.phrases[region.phrase].text} {1 - region.deficit:.2f}".split())
        width = draw.textlength(label) + 6
        draw.rectangle((box[0], box[1], box[0] + width, box[1] + 14), fill=color)
        draw.text((box[0] + 3, box[1] + 1), label, fill="white")
    return big


def _arrow(
    draw: ImageDraw.ImageDraw, start: tuple[float, float], end: tuple[float, float], color: str, head: float = 12
) -> None:
    """A line with a head at its end; none between two places that are almost one."""
    along = complex(end[0] - start[0], end[1] - start[1])
    if abs(along) < 2 * head:
        return
    along *= head / abs(along)
    neck = complex(*end) - along
    wings = [neck + along * turn / 2 for turn in (1j, -1j)]
    draw.line((*start, neck.real, neck.imag), fill=color, width=3)
    draw.polygon([end, *((w.real, w.imag) for w in wings)], fill=color)


def _dashed(draw: ImageDraw.ImageDraw, box: tuple[float, float, float, float], color: str, dash: int = 9) -> None:
    x0, y0, x1, y1 = (int(v) for v in box)
    for x in range(x0, x1, 2 * dash):
        for y in (y0, y1):
            draw.line((x, y, min(x + dash, x1), y), fill=color, width=3)
    for y in range(y0, y1, 2 * dash):
        for x in (x0, x1):
            draw.line((x, y, x, min(y + dash, y1)), fill=color, width=3)
