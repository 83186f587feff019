"""Which language a prompt is in: by its letters, its function words, and py3langid for what neither tells."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from accord.prompts import lexicon

_KNOWN = 0.7  # share of English words that is enough
_UNLIKELY = 0.01  # probability of English below which the identifier is believed
_FUNCTION_WORDS = {code: frozenset(words.split()) for code, words in lexicon.FUNCTION_WORDS.items()}
_ENGLISH_COLORS = lexicon.ATTRIBUTES - {"rose", "orange"}


def language_of(text: str, known: Callable[[str], bool] = lambda _: False) -> str:
    """ISO 639-1 code of the language; "en" for a text that could be English.

    Args:
        known: whether a word (in small letters) is one of English; asked where function words tell nothing.
    """
    letters = [c for c in text if c.isalpha()]
    for low, high, code in lexicon.SCRIPTS:
        dense = 3 if code in ("ja", "zh", "ko") else 2  # a word has fewer of their letters
        if dense * sum(low <= c <= high for c in letters) > len(letters):
            return code
    words = re.findall(r"[^\W\d_]+", text.lower())
    english = sum(w in lexicon.ENGLISH_WORDS for w in words)
    found = {code: sum(w in known for w in words) for code, known in _FUNCTION_WORDS.items()}
    best = max(found, key=lambda code: found[code])
    if found[best] > english:
        return best
    if english or len(words) < 3 or _ENGLISH_COLORS & set(words):
        return "en"
    if sum(known(w) for w in words) >= _KNOWN * len(words):
        return "en"
    best, english_share = _identified(text)
    return best if english_share < _UNLIKELY else "en"


def _identified(text: str) -> tuple[str, float]:
    """The most probable language by py3langid, and the probability of English."""
    import py3langid  # loads its model, in a second

    logs = dict(py3langid.rank(text))
    best = max(logs, key=lambda code: logs[code])
    return best, 1 / sum(math.exp(min(700.0, found - logs["en"])) for found in logs.values())
