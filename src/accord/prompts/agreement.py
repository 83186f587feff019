"""Verbs that agree with their subject: what a sentence needs when a number in it is exchanged."""

from __future__ import annotations

import re
from collections.abc import Iterator

from accord.types import Phrase, Prompt

_PLURAL_OF = {"is": "are", "was": "were", "has": "have", "does": "do", "'s": " are", "isn't": "aren't", "goes": "go"}
_SINGULAR_OF = {plural: singular for singular, plural in _PLURAL_OF.items() if singular != "'s"}
_VERBS_AFTER = (  # right after its subject, or behind what it wears or has
    re.compile(r"(?:\s+(?:who|that|which))?\s+(?P<verb>[\w']+)"),
    re.compile(r"\s+(?:with|in|of)\s+(?:[\w-]+\s+){1,4}?(?P<verb>[\w']+)"),
)


def verb_of(prompt: Prompt, phrase: Phrase) -> tuple[int, int] | None:
    """Where the finite verb of a thing stands, as characters of the prompt: "a child | is", "there | is a bus"."""
    before = re.search(r"\bthere (is|are|was|were)\s+$", prompt.text[: phrase.start], re.IGNORECASE)
    if before:
        return before.span(1)
    actions = {(w.start, w.end) for w in prompt.words if w.kind == "action"}
    for pattern in _VERBS_AFTER:
        for found in _all_ends(pattern, prompt.text, phrase.end):
            word = found["verb"].lower()
            helper = word in _PLURAL_OF or word in _SINGULAR_OF
            if helper or (found.span("verb") in actions and not word.endswith(("ing", "ed"))):
                return found.span("verb")
    return None


def _all_ends(pattern: re.Pattern[str], text: str, start: int) -> Iterator[re.Match[str]]:
    """The matches at `start` with fewer and with more words."""
    stop = re.compile(r"[,.;:!?]|$").search(text, start)
    end = stop.start() if stop else len(text)
    for place in [m.end() for m in re.finditer(r"[\w']+", text[start:end])][:7]:
        found = pattern.fullmatch(text, start, start + place)
        if found:
            yield found


def agreeing(verb: str, many: bool) -> str:
    """The form of a verb of the present for one or for many ("rides", "ride"); a past form stays."""
    low = verb.lower()
    if low in _PLURAL_OF or low in _SINGULAR_OF:
        return _PLURAL_OF.get(low, verb) if many else _SINGULAR_OF.get(low, verb)
    ends = low.endswith("s") and not low.endswith("ss")
    if many and ends:
        if low.endswith("ies") and len(low) > 4:
            return verb[:-3] + "y"
        return verb[:-2] if re.search("(?:ss|x|z|ch|sh|o)es$", low) else verb[:-1]
    if not many and not ends:
        if re.search("[^aeiou]y$", low):
            return verb[:-1] + "ies"
        return verb + ("es" if re.search("(?:ss|x|z|ch|sh|o)$", low) else "s")
    return verb
