"""The suites by name. Each is one file in `suites/`, registered by a decorator.

A suite says which prompts there are, what it needs to judge with, and what it finds in a picture. How pictures come
about, how rows are kept and what the figures are is the run's (`accord.evaluation.run`), for all suites alike.

Importing this loads neither torch nor a suite, so that the command line can name them in its help.
"""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from PIL import Image

from accord.data.pairs import PairsFile
from accord.evaluation import suites
from accord.types import InputError


@dataclass(frozen=True)
class Record:
    """A prompt of a suite.

    Attributes:
        number: its place in the suite's file, from 0: pictures are named by it, and it stays when others are left out.
        prompt: what the pipeline is given.
        tags: the groups that it counts in, such as "counting".
        key: what its file calls it, by which pictures of other tools are found; "" if nothing.
        about: what the suite judges by: questions, the objects that are asked for.
    """

    number: int
    prompt: str
    tags: tuple[str, ...] = ()
    key: str = ""
    about: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Judged:
    """What a suite finds in a picture.

    Attributes:
        score: the suite's figure of this picture, higher for better; None where it cannot be judged, which is left out
            of every mean.
        verdict: whether the picture is right; None where a suite has scores alone.
        figures: further figures by name, of the suite's `figures`.
        by_tag: score within a tag, where it is another than that of the picture; else `Record.tags` count the score.
        words: dicts of text, kind, start, end, probability and reads_as.
        regions: dicts of phrase, box ([x0, y0, x1, y1] as shares of width and height) and score.
        reasons: what is wrong, or why there is no score, a sentence each.
        caption: what a captioner says of the picture.
        unjudged: what the prompt says and no check covers.
    """

    score: float | None
    verdict: bool | None = None
    figures: Mapping[str, float | None] = field(default_factory=dict)
    by_tag: Mapping[str, float] | None = None
    words: Sequence[Mapping[str, Any]] = ()
    regions: Sequence[Mapping[str, Any]] = ()
    reasons: Sequence[str] = ()
    caption: str = ""
    unjudged: Sequence[str] = ()


class Suite(ABC):
    """A benchmark: `Checks(captioner=...)`. Its constructor takes what it needs, by name.

    Attributes:
        name: as it is registered.
        figure: what its score is, in a word or two, as a table names it.
        figures: names of further figures of a picture.
        needs: what its constructor takes of NEEDS.
        mean_of_tags: the tags whose unweighted mean is the whole; of a suite without such the whole is the mean over
            prompts.
        own_prompts: whether it brings its prompts, so that no file is needed.
        of_pictures: whether a folder of pictures may say the prompts, so that its path stands for the file's.
        first_seed: of the seeds that are counted from it.
    """

    name: ClassVar[str] = ""
    figure: ClassVar[str] = "score"
    figures: ClassVar[tuple[str, ...]] = ()
    needs: ClassVar[tuple[str, ...]] = ()
    mean_of_tags: ClassVar[tuple[str, ...]] = ()
    own_prompts: ClassVar[bool] = False
    of_pictures: ClassVar[bool] = False
    first_seed: ClassVar[int] = 0

    @classmethod
    @abstractmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        """The prompts of the user's file, or the suite's own; broken rows are listed in `skipped`.

        Raises:
            InputError: for a file that cannot be read, or without a prompt.
        """

    @abstractmethod
    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        """What is found in RGB pictures of any size, one a record; some at once."""

    @staticmethod
    def noise_seed(_record: Record, seed: int) -> int:
        """The seed that the picture's noise is made of."""
        return seed


NEEDS = ("judge", "answers", "embed", "detector", "clip")  # kinds of judges, as constructors of suites take them
Kind = TypeVar("Kind", bound=type[Suite])
_SUITES: dict[str, type[Suite]] = {}


def suite(name: str) -> Callable[[Kind], Kind]:
    """Register a suite under a name.

    Raises:
        ValueError: for a name that is taken, or a need that nothing provides.
    """

    def register(kind: Kind) -> Kind:
        if name in _SUITES:
            raise ValueError(f"suite {name!r} is registered already")
        unknown = [n for n in kind.needs if n not in NEEDS]
        if unknown:
            raise ValueError(f"suite {name!r} needs {unknown[0]!r}, which is none of {', '.join(NEEDS)}")
        kind.name = name
        _SUITES[name] = kind
        return kind

    return register


def suite_names() -> tuple[str, ...]:
    """The names of the suites in `suites/`, which are those of its files, then what others have registered."""
    found = sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules(suites.__path__) if m.name[0] != "_")
    return tuple(dict.fromkeys((*found, *_SUITES)))


def suite_named(name: str) -> type[Suite]:
    """The suite of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in suite_names():
        raise InputError(f"suite {name!r} is unknown; use {', '.join(suite_names())}")
    if name not in _SUITES:
        importlib.import_module(f"{suites.__name__}.{name.replace('-', '_')}")
    return _SUITES[name]
