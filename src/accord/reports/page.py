"""One self-contained page: words coloured by probability, pictures inside it."""

from __future__ import annotations

import base64
import html

from PIL import Image

from accord.reports.pictures import png
from accord.types import Alignment

STYLE = """body{font:15px/1.5 system-ui,sans-serif;margin:2em;color:#222;background:#fff}
figure{display:inline-block;margin:0 1.2em 1em 0;vertical-align:top}figcaption{max-width:384px}
img{image-rendering:pixelated;width:384px;border:1px solid #ccc}.w{padding:1px 4px;border-radius:4px}
small{color:#666}table{border-collapse:collapse}td,th{padding:2px 10px;text-align:left;border-bottom:1px solid #ddd}"""


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
            f"{html.escape(text[word.start : word.end] or f' no {word.text}')}<sub>{score.probability:.2f}</sub></span>"
        )
        position = word.end
    out.append(html.escape(text[position:]))
    if alignment.unjudged:
        out.append(f"<br><small>not judged: {html.escape(', '.join(alignment.unjudged))}</small>")
    if alignment.reason:
        out.append(f"<br><small>no score: {html.escape(alignment.reason)}</small>")
    return "".join(out)


def score_text(overall: float | None, digits: int = 2) -> str:
    """A score as it is shown, where there may be none."""
    return "no score" if overall is None else f"{overall:.{digits}f}"


def missed_text(alignment: Alignment) -> str:
    """What a picture misses, to stand after its score: `: yellow reads as red, purple reads as blue`."""
    low = [s for s in alignment.words if s.probability < 0.5]
    said = [
        f"{s.word.text} is there" if s.word.kind == "absence" else f"{s.word.text} reads as {s.reads_as}" for s in low
    ]
    return f": {', '.join(said)}" if said else ""


def words_text(alignment: Alignment) -> str:
    """One line a word, for a terminal: `red: 0.12, reads as blue: 0.85`; then what no check covers."""
    lines = []
    if alignment.reason:
        lines.append(f"no score: {alignment.reason}")
    for s in alignment.words:
        named = f"no {s.word.text}" if s.word.kind == "absence" else s.word.text
        line = f"{named}: {s.probability:.2f}"
        if s.probability < 0.5:
            line += f", reads as {s.reads_as}: {s.reads_as_probability:.2f}"
        lines.append(line)
    if alignment.unjudged:
        lines.append(f"not judged: {', '.join(alignment.unjudged)}")
    return "\n".join(lines)


def figure(image: Image.Image, caption: str) -> str:
    """A picture inside the page, over a caption in HTML."""
    data = base64.b64encode(png(image)).decode()
    return f'<figure><img alt="" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def page(title: str, body: str) -> str:
    """A self-contained HTML page."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{STYLE}</style></head><body>{body}</body></html>"
    )
