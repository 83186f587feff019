"""The suite `scenes`: SceneBench, judged by the reader, which no method sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from accord.data.lexicon import NUMBERS
from accord.data.pairs import PairsFile
from accord.evaluation.prompts import prompt_records
from accord.evaluation.registry import Judged, Record, Suite, suite
from accord.types import InputError
from accord_lab.bench.prompts import scenebench
from accord_lab.scenes.ask import Ask, ask_of, check
from accord_lab.scenes.lexicon import PLURALS
from accord_lab.scenes.read import read
from accord_lab.scenes.scene import Scene


@suite("scenes")
class Scenes(Suite):
    """Whether a picture shows what its prompt asks for and nothing else. A file holds prompts in the lab's words.

    Noise is as in `accord bench scenes`: every prompt has its own, as one noise for all would make all err together.
    """

    figure = "right"
    figures = ("noun", "color", "size", "count", "relation", "background")
    own_prompts = True
    first_seed = 1001

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        if path is None:
            return [
                Record(n, p.text, (p.category, "held out") if p.held_out else (p.category,), about={"ask": p.ask})
                for n, p in enumerate(scenebench())
            ]
        out = []
        for record in prompt_records(path, skipped):
            try:
                out.append(Record(record.number, record.prompt, about={**record.about, "ask": ask_of(record.prompt)}))
            except InputError as error:
                skipped.skip(record.number + 1, str(error))
        if not out:
            raise InputError(f"prompts file {str(path)!r} holds no prompt of the lab; its words are in docs/lab.md")
        return out

    @staticmethod
    def noise_seed(record: Record, seed: int) -> int:
        return (1000 * seed + record.number) % 2**63

    def judge(self, records: Sequence[Record], images: Sequence[Image.Image]) -> list[Judged]:
        return [self._judged(record, image) for record, image in zip(records, images, strict=True)]

    @staticmethod
    def _judged(record: Record, image: Image.Image) -> Judged:
        scene, ask = read(image), record.about["ask"]
        verdict = check(scene, ask)
        shares = {kind: sum(found) / len(found) for kind, found in verdict.atoms.items()}
        wrong = [kind for kind, share in shares.items() if share < 1]
        missed = f"wrong: {', '.join(wrong)}" if wrong else "there is more than was asked for, or it is elsewhere"
        reasons = [] if verdict.right else [f"asked: {_asked(ask)}; read: {_read(scene, ask)}", missed]
        return Judged(float(verdict.right), verdict.right, shares, reasons=reasons)


def _asked(ask: Ask) -> str:
    """What a prompt asks for, in few words: "two red stars, big key on white"."""
    things = [_thing(t.count, t.size, t.color, t.noun) for t in ask.things]
    return ", ".join(things) + (f" on {ask.background}" if ask.background else "")


def _read(scene: Scene, ask: Ask) -> str:
    """What was read off a picture, with what was asked about: sizes and the background where they were."""
    sized = any(t.size for t in ask.things)
    found = Counter((t.size if sized else None, t.color, t.noun) for t in scene.things)
    things = [_thing(count, *words) for words, count in found.items()]
    return (", ".join(things) or "nothing") + (f" on {scene.background}" if ask.background else "")


def _thing(count: int, size: str | None, color: str | None, noun: str) -> str:
    number = _NUMBERS.get(count, str(count)) if count > 1 else None
    if noun == "unknown":
        name = "unknown shapes" if number else "unknown shape"
    else:
        name = PLURALS[noun] if number else noun
    return " ".join(w for w in (number, size, color, name) if w)


_NUMBERS = {number: word for word, number in NUMBERS.items()}
