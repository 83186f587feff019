"""Whose weights a suite judges with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from accord.evaluation.registry import Suite
from accord.training.fingerprint import fingerprint

OWN = ("accord", "accord_lab")  # packages whose objects are looked into


def weights_of(suite: Suite) -> str:
    """The fingerprint of all networks that a suite judges with.

    Raises:
        AssertionError: if it takes judges and no network is found in them: another one would pass as the same.
    """
    modules = modules_of(suite)
    assert modules or not suite.needs, f"suite {suite.name!r} hides the networks that it judges with"
    return fingerprint(*modules)


def modules_of(suite: Any) -> list[nn.Module]:
    """The networks of a suite's judges, or of any object's, each once: what its attributes are or hold, and what
    Accord's own objects in these hold.
    """
    found: list[nn.Module] = []
    due: list[Any] = [suite]
    roots, seen = [suite, *vars(suite).values()], set()
    while due:
        one = due.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, nn.Module):
            found.append(one)
        elif isinstance(one, Mapping):
            due += one.values()
        elif isinstance(one, list | tuple):
            due += one
        elif any(one is root for root in roots) or type(one).__module__.partition(".")[0] in OWN:
            due += getattr(one, "__dict__", {}).values()
    return found
