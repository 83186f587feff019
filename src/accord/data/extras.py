"""Packages that only some of Accord needs, and the extra that brings each."""

from __future__ import annotations

import importlib
from typing import Any

from accord.types import InputError


def need(module: str, extra: str, what: str) -> Any:
    """The module of an optional package.

    Args:
        module: its dotted name.
        extra: the extra that installs it.
        what: what needs it, as the sentence begins.

    Raises:
        InputError: naming the package and the extra, if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = module.partition(".")[0]
        raise InputError(
            f"{what} need the package {package!r}; pip install -e '.[{extra}]' in Accord's folder"
        ) from error
