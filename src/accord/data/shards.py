"""Shards: a long job done in shares, "2/8" being every eighth item from the second on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from accord.types import InputError

T = TypeVar("T")


def parse_shard(text: str) -> tuple[int, int]:
    """ "3/8" to (3, 8).

    Raises:
        InputError: unless it is I/N with 1 <= I <= N.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    index, count = (int(g) for g in match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"shard {text!r} is not I/N with I from 1 to N; write for example 1/4")
    return index, count


def share_of(items: Sequence[T], shard: tuple[int, int] | None) -> Sequence[T]:
    """Every n-th item from the i-th on for the shard (i, n); all of them for None."""
    return items if shard is None else items[shard[0] - 1 :: shard[1]]


def shard_name(stem: str, index: int, count: int) -> str:
    """What a shard's share of a file is called: `stem` itself of one shard, else stem-00003-of-00008."""
    return stem if count == 1 else f"{stem}-{index:05d}-of-{count:05d}"
