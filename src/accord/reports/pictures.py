"""Pictures for people: side by side under labels, enlarged, with regions drawn."""

from __future__ import annotations

import colorsys
import io
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from PIL import Image, ImageColor, ImageDraw, ImageFont

from accord.types import Prompt, Region

_SHOWN = 384  # side of a picture on a page
GAP = 8  # between the pictures of a row
_LEAST = 192  # width of a picture under which no label is readable
_LINES = {"title": 3, "label": 5}  # at most
_LIKE = str.maketrans("‘’“”–—", "''\"\"--")
_PALETTE = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2", "#bcbd22", "#8c564b")
_MOVED = 0.15  # share of the picture by which a middle is elsewhere
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


def contact_sheet(
    rows: Sequence[Sequence[Image.Image]], row_labels: Sequence[str], column_labels: Sequence[str], title: str = ""
) -> Image.Image:
    """Pictures in rows and columns of one width, with the label of each row before it and of each column above it.

    Narrow pictures are shown larger, pixels kept crisp, and wide ones smaller.

    Raises:
        ValueError: unless there is a label for each row and for each column of each row.
    """
    size, margin = 15, 150
    line = sum(_font(size).getmetrics())
    shown = [[_of_width(p.convert("RGB"), _LEAST) for p in row] for row in rows]
    width = margin + (_LEAST + GAP) * max(len(column_labels), 1)
    heading = _wrapped(title, _font(size + 4), width, _LINES["title"])
    heads = [_wrapped(label, _font(size), _LEAST, _LINES["label"]) for label in column_labels]
    large = sum(_font(size + 4).getmetrics())
    above = large * len(heading) + line * max(map(len, heads), default=0) + GAP
    out = Image.new("RGB", (width, above + sum(max(p.height for p in row) + GAP for row in shown)), "white")
    draw = ImageDraw.Draw(out)
    for k, text in enumerate(heading):
        draw.text((0, large * k), text, fill="#222", font=_font(size + 4))
    for column, head in enumerate(heads):
        for k, text in enumerate(reversed(head)):
            place = (margin + (_LEAST + GAP) * column, above - GAP // 2 - line * (k + 1))
            draw.text(place, text, fill="#222", font=_font(size))
    y = above
    for row, label in zip(shown, row_labels, strict=True):
        height = max(p.height for p in row)
        for k, text in enumerate(_wrapped(label, _font(size), margin - 2 * GAP, max(1, height // line))):
            draw.text((0, y + line * k), text, fill="#222", font=_font(size))
        for (column, _), panel in zip(enumerate(column_labels), row, strict=True):
            out.paste(panel, (margin + (_LEAST + GAP) * column, y))
        y += height + GAP
    return out


def _of_width(image: Image.Image, width: int) -> Image.Image:
    small = image.width <= width
    size = (width, max(1, round(image.height * width / image.width)))
    return image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


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
    """A color for each thing, as "#rrggbb": none that its own words name and, while there are enough, none that another
    thing has or names.

    Args:
        said: words of each thing; those that name no color are passed over.
    """
    return list(_chosen(tuple(map(tuple, said))))


@lru_cache(4096)
def _chosen(said: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    hues = [[h for word in words for h in _hues(word)] for words in said]
    chosen: list[str] = []
    for own in hues:
        fit = [c for c in _PALETTE if not _named(c, own)] or list(_PALETTE)
        chosen.append(min(fit, key=lambda c: (chosen.count(c), _named(c, [h for other in hues for h in other]))))
    return tuple(chosen)


def _named(color: str, hues: Sequence[float]) -> bool:
    """Whether one of these hues looks like a color."""
    return any(abs((h - k + 180) % 360 - 180) <= _LIKE_HUE for h in hues for k in _hues(color))


@lru_cache(4096)
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


def found_and_target(box: Sequence[float], planned: bool, found: Sequence[float] | None) -> tuple[Any, Any]:
    """Where a thing was found, and where it was to be put if that is another place; None for what there is not.

    Args:
        box, planned, found: as those of a `Region`.
    """
    if found is None:
        return (None, box) if planned else (box, None)
    (x0, y0), (x1, y1) = (((b[0] + b[2]) / 2, (b[1] + b[3]) / 2) for b in (found, box))
    return found, box if planned or max(abs(x1 - x0), abs(y1 - y0)) > _MOVED else None


def draw_regions(image: Image.Image, prompt: Prompt, regions: tuple[Region, ...]) -> Image.Image:
    """The picture with each thing's phrase and the boxes where it was found, solid, and where it was to be put, dashed
    and with an arrow from there.
    """
    big = enlarge(image)
    draw = ImageDraw.Draw(big)
    colors = thing_colors([[w.text for w in p.words if w.kind == "color"] for p in prompt.phrases])
    for k, region in enumerate(regions):
        color = colors[region.phrase]
        places = found_and_target(region.box, region.planned, region.found)
        boxes = [None if p is None else _pixels(p, big.size, k) for p in places]
        found, target = boxes
        if found is not None:
            draw.rectangle(found, outline=color, width=3)
        if target is not None:
            _dashed(draw, target, color)
        if found is not None and target is not None:
            _arrow(draw, _middle(found), _middle(target), color)
        at = target or found or (0.0, 0.0, 0.0, 0.0)
        label = " ".join(f"{prompt.phrases[region.phrase].text} {1 - region.deficit:.2f}".split())
        width = draw.textlength(label) + 6
        draw.rectangle((at[0], at[1], at[0] + width, at[1] + 14), fill=color)
        draw.text((at[0] + 3, at[1] + 1), label, fill="white")
    return big


def _pixels(box: Sequence[float], size: tuple[int, int], inset: int) -> tuple[float, float, float, float]:
    """A box of shares in pixels, a little smaller for each thing, so that boxes of one place are all seen."""
    x0, y0, x1, y1 = (v * s for v, s in zip(box, (*size, *size), strict=True))
    k = inset
    return x0 + k, y0 + k, max(x1 - 2 - k, x0 + k + 1), max(y1 - 2 - k, y0 + k + 1)


def _middle(box: Sequence[float]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


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
