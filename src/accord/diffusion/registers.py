"""Registers: paddings of a text encoder that tell of one thing of the prompt each.

The lab's text tower has them (recipe `roles`). An encoder with registers names them in its configuration, under
REGISTERS_KEY: for each thing of a prompt, in the order of the text, the positions of its registers. Transformers and
diffusers keep that entry and need not know it.
"""

from __future__ import annotations

from typing import Any

REGISTERS_KEY = "thing_registers"


def registers_of(encoder: Any) -> list[list[int]]:
    """Positions of the registers of each thing, the first thing first; empty if the encoder has none."""
    found = getattr(getattr(encoder, "config", None), REGISTERS_KEY, None)
    rows = found if isinstance(found, list) else []
    return [[p for p in row if isinstance(p, int)] for row in rows if isinstance(row, list)]
