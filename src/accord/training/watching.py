"""A second judge that only watches: nothing is selected by it or trained with it, so it may report."""

from __future__ import annotations

from torch import nn

from accord.judges.captioners import Captioner, load_captioner
from accord.training.fingerprint import fingerprint
from accord.types import InputError


def load_watcher(model: str, selects: object, device: str = "cpu") -> Captioner:
    """The captioner of a folder or hub id, for watching what another judge selects or rewards.

    Args:
        selects: the judge that does; None where there is none yet.

    Raises:
        InputError: for a model that cannot be read, or one with the very weights of the other.
    """
    watcher = load_captioner(model, device)
    check_watches(watcher, selects, model)
    return watcher


def check_watches(watcher: object, selects: object, name: str) -> None:
    """Refuse a watcher that has the very weights of the judge that selects. Raises InputError."""
    modules = isinstance(watcher, nn.Module) and isinstance(selects, nn.Module)
    if modules and fingerprint(watcher) == fingerprint(selects):
        raise InputError(
            f"`watcher` {name!r} has the weights of the judge that selects; give one trained from another seed"
        )
