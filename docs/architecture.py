"""Draws `docs/architecture.png`: the layers of the package, and how a latent, a gradient, a picture and a video travel.

    python docs/architecture.py

Layers are those that import-linter checks (pyproject.toml). Every stop is a name that is there, or this fails.
"""

from __future__ import annotations

import importlib
import inspect
import itertools
import tomllib
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent
# what travels -> its stops: where the name is, and the name
PATHS: dict[str, list[tuple[str, str]]] = {
    "a latent: from noise to a repaired picture": [
        ("accord.cli.pictures", "realign"),
        ("accord.methods.realign.fine", "realign"),
        ("accord.diffusion.opened", "Opened"),
        ("accord.diffusion.tap", "observed"),
        ("accord.methods.realign.modulation", "Modulation"),
        ("accord.judges.diagnosis", "align"),
        ("accord.reports.results", "Realigned"),
    ],
    "a gradient: from a reward to an adapter": [
        ("accord.cli.train", "train_reward"),
        ("accord.methods.tune.train", "train_reward"),
        ("accord.training.session", "session"),
        ("accord.methods.tune.strategies.refl", "Refl"),
        ("accord.methods.tune.rollouts", "Rollouts"),
        ("accord.diffusion.opened", "Opened"),
        ("accord.judges.captioners", "Captioner"),
        ("accord.training.loop", "Run"),
        ("accord.diffusion.lora", "save_lora"),
    ],
    "a picture: from a file to the prompt that made it": [
        ("accord.cli.pictures", "invert"),
        ("accord.data.images", "open_image"),
        ("accord.methods.invert.reader", "Reader"),
        ("accord.judges.captioners", "Captioner"),
        ("accord.methods.invert.inverter", "Inverter"),
        ("accord.methods.invert.bank", "Bank"),
        ("accord.methods.invert.reader", "Inverted"),
        ("accord.files", "write_file"),
    ],
    "a video: from its frames to the edit": [
        ("accord.cli.videos", "edit"),
        ("accord.data.video", "read_video"),
        ("accord.diffusion.opened", "Opened"),
        ("accord.methods.video.tuning", "tune"),
        ("accord.training.loop", "Run"),
        ("accord.methods.video.trajectory", "invert"),
        ("accord.methods.video.editing", "VideoEditor"),
        ("accord.diffusion.opened", "Opened"),
        ("accord.data.video", "write_video"),
    ],
}
COLOURS = ("#2166ac", "#b2182b", "#1b7837", "#762a83")


def layers() -> list[list[str]]:
    """The layers from the top, each the packages that stand side by side in it."""
    settings = tomllib.loads((HERE.parent / "pyproject.toml").read_text(encoding="utf8"))
    contract = next(c for c in settings["tool"]["importlinter"]["contracts"] if c["type"] == "layers")
    return [[name.strip() for name in layer.split("|")] for layer in contract["layers"]]


def layer_of(module: str, rows: list[list[str]]) -> int:
    """The number of the layer that a module is in, from the top."""
    found = [i for i, names in enumerate(rows) for n in names if module == n or module.startswith(n + ".")]
    if not found:
        raise SystemExit(f"{module} is in no layer of pyproject.toml")
    return found[0]


def check(module: str, name: str) -> Any:
    """The thing itself, which must be defined where the picture says."""
    thing = getattr(importlib.import_module(module), name, None)
    if thing is None or not inspect.getmodule(thing).__name__.startswith(module):  # type: ignore[union-attr]
        raise SystemExit(f"{module} has no {name}")
    return thing


def draw(axis: Axes, title: str, stops: list[tuple[str, str]], rows: list[list[str]], colour: str) -> None:
    places: list[tuple[float, float]] = []
    for i, (module, _) in enumerate(stops):  # neighbours in one layer stand a little apart
        layer = layer_of(module, rows)
        beside = bool(places) and round(places[-1][1]) == layer
        places.append((i, layer + (0.22 if beside and places[-1][1] <= layer else -0.22 if beside else 0)))
    for row in range(len(rows)):
        axis.axhspan(row - 0.5, row + 0.5, color="#f2f2f2" if row % 2 else "#ffffff", zorder=0)
    for (x0, y0), (x1, y1) in itertools.pairwise(places):
        axis.annotate(
            "", (x1, y1), (x0, y0), arrowprops={"arrowstyle": "-|>", "color": colour, "shrinkA": 10, "shrinkB": 10}
        )
    for (x, y), (module, name) in zip(places, stops, strict=True):
        where = ".".join(module.split(".")[2:])
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": colour}
        axis.text(x, y, f"{name}\n({where})" if where else name, ha="center", va="center", fontsize=6.5, bbox=box)
    axis.set_title(title, color=colour, fontsize=10, loc="left")
    axis.set_xlim(-0.7, len(stops) - 0.3)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_yticks(range(len(rows)), ["\n".join(n) for n in rows], fontsize=7.5)
    axis.set_xticks([])
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)


def main() -> None:
    rows = layers()
    for stops in PATHS.values():
        for module, name in stops:
            check(module, name)
    figure = Figure(figsize=(16, 10), layout="constrained")
    axes = figure.subplots(2, 2).flat
    for axis, (title, stops), colour in zip(axes, PATHS.items(), COLOURS, strict=True):
        draw(axis, title, stops, rows, colour)
    # no date or version of the drawing library in the file
    figure.savefig(HERE / "architecture.png", dpi=110, metadata={"Software": None})
    print(HERE / "architecture.png")


if __name__ == "__main__":
    main()
