"""Batches of which one member may be refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from accord.types import InputError

T = TypeVar("T")
S = TypeVar("S")


def each(do: Callable[[Sequence[S]], Sequence[T | InputError]], items: Sequence[S]) -> list[T | InputError]:
    """What is made of a batch; if it is refused as a whole, what is made of each by itself, and why of those that are
    refused.
    """
    try:
        return list(do(items))
    except InputError as error:
        if len(items) == 1:
            return [error]
    return [found for item in items for found in each(do, [item])]
