"""Read: the prompt that a picture's file states and the one that is read back, each judged by word, and where each
phrase is.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel

from accord.studio.rooms.asked import (
    Asked,
    Choice,
    Identity,
    Text,
    check_prompt,
    file_word,
    line,
    options,
    quoted_prompts,
)
from accord.studio.settings import Settings
from accord.studio.work import Work
from accord.types import InputError, Notice

SHARE = 0.6  # of the steps that are done again to see where a phrase is
SEED = 0


class ReadRequest(Asked):
    """A picture whose prompt is wanted.

    Attributes:
        upload: the picture.
        prompt: to be judged beside what is read back; what the file states if empty.
        model: whose attention says where a phrase is, and by whose judge words are judged.
    """

    upload: Identity
    prompt: Text = ""
    model: Choice = ""


class Read:
    """`accord invert` and `accord score`, and where each phrase is."""

    name = "read"
    request: type[BaseModel] = ReadRequest

    def check(self, request: ReadRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]) -> None:
        settings.chosen(request.model)
        if upload(request.upload)["kind"] != "picture":
            raise InputError("this upload is a video; drop a picture here, or go to Edit")
        if request.prompt:
            check_prompt("prompt", request.prompt, settings)

    def command(
        self, request: ReadRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]
    ) -> list[str]:
        about = upload(request.upload)
        name = file_word(about["name"])
        prompt = request.prompt or about["stated"] or "THE PROMPT READ BACK"
        return [
            line("accord", "invert", *options(inverter=settings.inverter), name),
            line("accord", "score", *settings.judge_words, *quoted_prompts([name, prompt])),
        ]

    def run(self, work: Work) -> dict[str, Any]:
        from accord.data.images import open_image

        asked = work.request
        about = work.settings.folder / "uploads" / asked.upload
        picture = next(about.glob("original*"), None)
        if picture is None:
            raise InputError("the uploaded picture is not kept any more; drop it again")
        work.stage("loading the models")
        image = open_image(picture)
        shown = image.copy()
        shown.thumbnail((1024, 1024))
        work.write("picture.png", shown)
        reader = work.models.reader()
        work.stage("reading the prompt")
        found = reader([image])[0]
        read = {"prompt": found.prompt, "cosine": found.score, "words": [list(w) for w in found.words]}
        work.told("read", read)
        from accord.data.stated import stated_prompt

        stated = asked.prompt or stated_prompt(picture)[: work.settings.limits.letters]
        source = "given" if asked.prompt else "stated" if stated else "none"
        texts = [t for t in (stated, found.prompt) if t]
        judged = []
        for number, text in enumerate(texts):
            work.stage(f"judging {'the prompt of the file' if text == stated else 'the prompt read back'}")
            judged.append(_judged(work, image, text, number))
            work.told("judged", judged[-1])
        return {"read": read, "stated": stated, "source": source, "judged": judged, "picture": "picture.png"}


def _judged(work: Work, image: Any, text: str, number: int) -> dict[str, Any]:
    """A picture's verdicts by a text, and where its phrases are; or why not."""
    import accord
    from accord.reports.gallery import Entry, shown_row

    model = work.request.model
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Notice)
            scored = accord.score(image, text, work.models.judge(model), work.models.clip(model))[0]
    except InputError as error:
        return {"prompt": text, "error": str(error), "row": None, "maps": [], "nowhere": ""}
    why = ""
    regions: list[dict[str, Any]] = []
    maps: list[str] = []
    work.stage("looking where its phrases are")
    try:
        regions, maps = _where(work, image, scored.alignment.prompt, number)
    except InputError as error:
        why = str(error)
    row = shown_row(work.folder, Entry.of_scores(number, "picture.png", scored.to_dict(), regions=regions))
    return {"prompt": text, "error": "", "row": row, "maps": maps, "nowhere": why}


def _where(work: Work, image: Any, prompt: Any, number: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Regions of the phrases, and a map of each as a picture whose transparency says where it is."""
    import numpy as np
    from PIL import Image

    from accord.data.images import to_tensor
    from accord.methods.realign.config import RealignConfig
    from accord.methods.realign.fine import locate, rounds_of

    if not prompt.things:
        return [], []
    config = RealignConfig(rounds=0, mode="renoise", strength=SHARE)
    told = {"config": config, "captioner": work.models.judge(work.request.model), "captions": False}
    rounds, parsed = rounds_of(work.models.pipe(work.request.model), [prompt.text], **told)
    found, regions = locate(rounds, to_tensor(image)[0], parsed[0], SEED)
    phrases = parsed[0].phrases
    names = []
    for k, one in enumerate(found):
        alpha = Image.fromarray((np.clip(one, 0, 1) * 215).astype(np.uint8)).resize(
            (256, 256), Image.Resampling.BICUBIC
        )
        layer = Image.new("RGBA", alpha.size, (255, 64, 0, 255))
        layer.putalpha(alpha)
        name = f"where/{number}-{k}.png"
        (work.folder / "where").mkdir(exist_ok=True)
        layer.save(work.folder / name)
        names.append(name)
    rows = [{"phrase": phrases[r.phrase].text, "box": r.box, "planned": False, "found_box": r.box} for r in regions]
    return rows, names
