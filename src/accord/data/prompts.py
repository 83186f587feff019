"""What a prompt must be before anybody reads it: said in UTF-8, with a letter in it, short enough."""

from __future__ import annotations

import re
from collections.abc import Callable

from accord.types import InputError

MOST_WORDS, MOST_LETTERS = 1000, 20_000  # of a prompt that is taken apart


def check_sayable(text: str) -> None:
    """Refuse a text that UTF-8 cannot hold: an argument of other bytes.

    Raises:
        InputError: naming it.
    """
    try:
        text.encode("utf8")
    except UnicodeEncodeError:
        shown = text.encode("utf8", "replace").decode("utf8")
        raise InputError(f"the prompt {shown!r} is no UTF-8; write it in UTF-8") from None


def check_says_something(text: str) -> None:
    """Refuse a prompt with no letters in it, that is no UTF-8, or longer than any text encoder reads.

    Raises InputError.
    """
    if len(text) > MOST_LETTERS or len(text.split()) > MOST_WORDS:
        raise InputError(
            f"the prompt {text[:40]!r}... has {len(text.split())} words; {MOST_WORDS} words and {MOST_LETTERS} "
            "letters are read at most: shorten it"
        )
    if not re.search(r"\w", text):
        raise InputError(f"the prompt {text!r} is empty; give it at least one word")
    check_sayable(text)


def words_beyond(text: str, tokens: Callable[[str], int], room: int) -> str:
    """The last words of a text, those that do not fit into `room` tokens, cut to 80 letters; empty if all fit.

    Beginnings of the text are counted, each twice as long as the one before, until one does not fit: what is counted in
    all is a few times what fits, however long the text is.
    """
    words = text.split()
    fits, beyond = 0, max(16, room)  # words; more words than tokens never fit
    while beyond < len(words) and tokens(" ".join(words[:beyond])) <= room:
        fits, beyond = beyond, 2 * beyond
    if beyond >= len(words):
        if tokens(text) <= room:
            return ""
        beyond = len(words)
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        fits, beyond = (middle, beyond) if tokens(" ".join(words[:middle])) <= room else (fits, middle)
    lost = " ".join(words[fits : fits + 80])
    return lost if len(lost) <= 80 and fits + 80 >= len(words) else lost[:77] + "..."
