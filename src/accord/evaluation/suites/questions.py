"""Questions on pictures, with the answers that are expected: a file of one's own, or TIFA's, DSG's, DPG-Bench's or
GenEval 2's.

| file | columns or keys |
|---|---|
| one's own, CSV or JSONL | prompt, question, answer; if there are any: choices, tag, id, depends |
| TIFA, JSON | caption, question, choices, answer, element_type, id |
| DSG and DPG-Bench, CSV | item_id, text, proposition_id, dependency, category_broad, question_natural_language |
| GenEval 2, JSONL | prompt, vqa_list (pairs of question and answer), skills |

Beside DPG-Bench's CSV its prompts may lie as `prompts/ITEM.txt`; they are what pictures are made of then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from accord.data.pairs import DELIMITERS, Broken, PairsFile, csv_head, csv_rows, json_lines
from accord.evaluation.one_judge import OneJudge
from accord.evaluation.prompts import given
from accord.evaluation.registry import Judged, Record, suite
from accord.files import read_json_list, read_text
from accord.judges.protocol import Answers, Question
from accord.judges.questions import IN_ONE_WORD, YES_OR_NO, weighed
from accord.judges.vqascore import means, spellings
from accord.types import InputError

WHAT = "questions file"
SAID = 0.5  # probability from which on an answer without rivals counts as given
PROMPT, QUESTION = ("prompt", "caption", "text"), ("question", "question_natural_language")
COLUMNS = (
    *PROMPT,
    *QUESTION,
    "answer",
    "choices",
    "tag",
    "element_type",
    "category_broad",
    "id",
    "item_id",
    "proposition_id",
    "dependency",
    "depends",
)


@dataclass(frozen=True)
class Asked:
    """A question of a prompt.

    Attributes:
        answers: the spellings of the expected answer, then of each other choice.
        number: by which others depend on it.
        needs: numbers of the questions without whose answers this one makes no sense.
    """

    text: str
    answers: tuple[tuple[str, ...], ...]
    tag: str = ""
    number: int = 0
    needs: tuple[int, ...] = ()

    @property
    def question(self) -> Question:
        return Question(self.text, self.answers)


def as_answers(answer: str, choices: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """The expected answer before the other choices; of "yes" the other choice is "no", and of "no" "yes"."""
    said = answer.strip()
    rivals = [c for c in choices if c.strip() and c.strip().lower() != said.lower()]
    if not rivals:
        rivals = [{"yes": "no", "no": "yes"}[said.lower()]] if said.lower() in ("yes", "no") else []
    return tuple(map(spellings, (said, *rivals)))


def as_asked(question: str, answer: str, choices: Sequence[str]) -> str:
    """The question and how it is to be answered: yes or no, one of the choices as they stand in the file, or one word.
    A chat model that is not told begins with "The".
    """
    said, listed = answer.strip(), list(dict.fromkeys(c.strip() for c in choices if c.strip()))
    known = {c.lower() for c in (said, *listed)}
    if known <= {"yes", "no"}:
        return f"{question} {YES_OR_NO}"
    if not listed:
        return f"{question} {IN_ONE_WORD}"
    # an answer that the choices lack is put in by the alphabet, where nothing gives it away
    shown = listed if said.lower() in {c.lower() for c in listed} else sorted([said, *listed], key=str.lower)
    return f"{question} Answer with one of: {', '.join(shown)}."


@suite("questions")
class Questions(OneJudge):
    """The share of a prompt's questions that are answered as expected (TIFA, DSG, DPG-Bench).

    A question whose premises are answered otherwise counts as wrong (DSG's dependencies). Beside it stand Soft-TIFA's
    figures, which know no dependencies: AM and GM are the arithmetic and the geometric mean of the expected answers'
    probabilities. A tag's score is the share of its questions.
    """

    figure = "answered as expected"
    figures = ("AM", "GM")
    needs = ("answers",)
    instruction = ""  # said after each question; by what answers it has if ""

    def __init__(self, answers: Answers) -> None:
        self.judging = answers

    @classmethod
    def records(cls, path: Path | None, skipped: PairsFile) -> list[Record]:
        return question_records(given(path), skipped, cls.instruction)

    def asked(self, records: Sequence[Record], pixels: torch.Tensor) -> list[Judged]:
        asked = [r.about["asked"] for r in records]
        of = [i for i, questions in enumerate(asked) for _ in questions]
        flat = [a.question for questions in asked for a in questions]
        found = iter(self.judging.answer(pixels, flat, of))
        return [self.judged(questions, [next(found) for _ in questions]) for questions in asked]

    def judged(self, asked: Sequence[Asked], found: Sequence[np.ndarray]) -> Judged:
        """From the probabilities [A] of each question's answers, the expected one first. A question is
        unjudged, and in no mean, where the judge cannot tell the expected answer, or any rival of it, from the others
        (NaN).
        """
        known = [(a, p[kept]) for a, p in zip(asked, found, strict=True) if (kept := weighed(p))]
        unjudged = [a.text for a, p in zip(asked, found, strict=True) if not weighed(p)]
        if not known:
            return Judged(None, reasons=["the judge cannot tell the answers apart"], unjudged=unjudged)
        asked, found = [a for a, _ in known], [p for _, p in known]
        soft = np.asarray([float(p[0]) for p in found])
        right = verdicts(asked, found)
        tags: dict[str, list[float]] = {}
        for a, value in zip(asked, self.tag_values(soft, right), strict=True):
            tags.setdefault(a.tag, []).append(value)
        reasons = [f"{a.text} not {a.answers[0][0]!r}" for a, good in zip(asked, right, strict=True) if not good]
        am, gm = means(soft)
        return Judged(
            score=self.score(am, gm, right),
            verdict=all(right),
            figures={"AM": am, "GM": gm},
            by_tag={tag: float(np.mean(v)) for tag, v in tags.items() if tag},
            reasons=reasons,
            unjudged=unjudged,
        )

    @staticmethod
    def score(_am: float, _gm: float, right: Sequence[bool]) -> float:
        return float(np.mean(right))

    @staticmethod
    def tag_values(_soft: np.ndarray, right: Sequence[bool]) -> Sequence[float]:
        return [float(good) for good in right]


def verdicts(asked: Sequence[Asked], found: Sequence[np.ndarray]) -> list[bool]:
    """Whether each question is answered as expected, and all that it needs are."""
    plain = {a.number: bool(p[0] > max(p[1:], default=SAID)) for a, p in zip(asked, found, strict=True)}
    needs = {a.number: a.needs for a in asked}

    def holds(number: int) -> bool:
        left, seen = [number], {number}  # it, and all that it needs; a premise that is not asked holds
        while left:
            if not plain[left[-1]]:
                return False
            more = [n for n in dict.fromkeys(needs[left.pop()]) if n in plain and n not in seen]
            left += more
            seen.update(more)
        return True

    return [holds(a.number) for a in asked]


# --- reading ----------------------------------------------------------------------------------------------------------
def question_records(path: Path, skipped: PairsFile, instruction: str = "") -> list[Record]:
    """A record for each prompt of a questions file, with its questions as `about["asked"]`.

    Args:
        instruction: said after each question; see `as_asked` if "".

    Raises:
        InputError: for a file that cannot be read, has not these columns, or holds no question.
    """
    suffix = path.suffix.lower()
    readers = {".json": _json, ".jsonl": _jsonl, ".csv": _csv, ".tsv": _csv}
    if suffix not in readers:
        raise InputError(f"{WHAT} {str(path)!r} is none of {', '.join(readers)}; convert it to one of them")
    prompts: dict[str, str] = {}
    asked: dict[str, list[Asked]] = {}
    for number, row in readers[suffix](path):
        try:
            for key, prompt, question in _questions(row, instruction):
                own = asked.setdefault(key, [])
                prompts.setdefault(key, prompt)
                own.append(question if question.number else Asked(**{**vars(question), "number": len(own) + 1}))
        except ValueError as error:
            skipped.skip(number, str(error))
    if not asked:
        why = f" (row {skipped.skipped[0]['row']}: {skipped.skipped[0]['reason']})" if skipped.skipped else ""
        raise InputError(f"{WHAT} {str(path)!r} holds no question{why}; see the suite's help for the columns")
    return [
        Record(
            number,
            _long_prompt(path, key) or prompts[key],
            tuple(dict.fromkeys(a.tag for a in own if a.tag)),
            "" if key == prompts[key] else key,
            {"asked": tuple(own)},
        )
        for number, (key, own) in enumerate(asked.items())
    ]


def _long_prompt(path: Path, key: str) -> str:
    """DPG-Bench's prompt of an item, where its files lie beside the table."""
    file = path.parent / "prompts" / f"{key}.txt"
    if "/" in key or "\0" in key or len(os.fsencode(file.name)) > 255 or not file.is_file():  # no file has such a name
        return ""
    return " ".join(read_text(file, "prompt").split())


def _questions(row: Any, instruction: str) -> list[tuple[str, str, Asked]]:
    """(key, prompt, question) of a row, of all of it or of nothing. Raises ValueError, saying what is wrong with it."""
    if isinstance(row, Broken) or not isinstance(row, Mapping):
        raise ValueError(str(row) if isinstance(row, Broken) else "it is no object")
    prompt = " ".join(str(next((row[k] for k in PROMPT if row.get(k)), "")).split())
    if not prompt:
        raise ValueError("no prompt")
    key = str(row.get("id") or row.get("item_id") or prompt)
    if isinstance(pairs := row.get("vqa_list"), list):  # GenEval 2: all questions of a prompt in one row
        return [(key, prompt, asked) for asked in _of_pairs(pairs, row.get("skills"), instruction)]
    question = " ".join(str(next((row[k] for k in QUESTION if row.get(k)), "")).split())
    if not question:
        raise ValueError("no question")
    answer = str(row.get("answer") or ("yes" if "question_natural_language" in row else ""))
    if not answer.strip():
        raise ValueError("no answer")
    tag = str(row.get("tag") or row.get("element_type") or row.get("category_broad") or "")
    text = re.search(r"\d+", str(row.get("proposition_id") or ""))
    needs = tuple(int(n) for n in re.findall(r"\d+", str(row.get("dependency") or row.get("depends") or "")) if int(n))
    asked = _one(question, answer, _choices(row.get("choices")), tag, instruction)
    return [(key, prompt, Asked(**{**vars(asked), "number": int(text[0]) if text else 0, "needs": needs}))]


def _one(question: str, answer: str, choices: Sequence[str], tag: str, instruction: str) -> Asked:
    text = f"{question} {instruction}" if instruction else as_asked(question, answer, choices)
    return Asked(text, as_answers(answer, choices), tag)


def _of_pairs(pairs: list[Any], skills: Any, instruction: str) -> list[Asked]:
    """The questions of a prompt of GenEval 2. Raises ValueError."""
    if not pairs:
        raise ValueError("its vqa_list is empty")
    if not all(isinstance(pair, list) and len(pair) == 2 and all(str(part).strip() for part in pair) for pair in pairs):
        raise ValueError("its vqa_list holds no pairs of question and answer")
    skills = skills or [""] * len(pairs)
    if not isinstance(skills, list):
        raise ValueError("its skills are no list; give each question one")
    if len(skills) != len(pairs):
        raise ValueError(
            f"its vqa_list has {len(pairs)} questions, and its skills are {len(skills)}; give each question one"
        )
    return [_one(str(q), str(a), (), str(skill), instruction) for (q, a), skill in zip(pairs, skills, strict=True)]


def _choices(value: Any) -> list[str]:
    """A list, or a text in which | or ; or , parts them."""
    if isinstance(value, list):
        return [str(v) for v in value]
    return [part.strip() for part in re.split(r"[|;,]", str(value or "")) if part.strip()]


def _json(path: Path) -> Iterable[tuple[int, Any]]:
    return enumerate(read_json_list(path, WHAT, "mend it there"), start=1)


def _jsonl(path: Path) -> Iterable[tuple[int, Any]]:
    return json_lines(path, WHAT)


def _csv(path: Path) -> Iterable[tuple[int, Any]]:
    head = csv_head(path, WHAT, DELIMITERS if path.suffix.lower() == ".csv" else "\t,;|", (PROMPT, QUESTION))
    if head is None:
        raise InputError(
            f"{WHAT} {str(path)!r} has no columns of prompts and questions; name them 'prompt', 'question' and 'answer'"
        )
    return csv_rows(path, WHAT, *head, frozenset(COLUMNS))
