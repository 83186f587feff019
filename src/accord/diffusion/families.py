"""The little that a network does not tell of itself: a line a family, all of them here.

A family that is not listed is one of which nothing has to be said: its text is in attention layers of its own, and its
guidance is `guidance_scale`. CONTRIBUTING says how a family gets its line, and how the contract test checks it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Family:
    """What is to be said of a network.

    Attributes:
        image: where the image's tokens are among the keys of an attention that text and image share; None if text is in
            layers of its own (cross-attention).
        registers: tokens of nothing before all others.
        padded: image and text are each padded to a multiple of this many tokens.
        texts: the network's arguments that are its text, in the order of the keys; the one with most of the words if
            empty.
        before: the network's argument that masks a further text, whose shown tokens come before all others of text.
        ragged: text is cut to its own length in each row, and the image follows it there.
        guidance: the argument of the pipeline's call that is the guidance scale, or "guider" for a pipeline that has an
            object for it.
        guidance_offset: what is added to that argument to give the scale of classifier-free guidance (arXiv
            2207.12598), at which 1 is unguided.
        negative_prompt: what guidance needs for a negative prompt where none is given; None if it needs none.
    """

    image: Literal["first", "last"] | None = None
    registers: int = 0
    padded: int = 1
    texts: tuple[str, ...] = ()
    before: str | None = None
    ragged: bool = False
    guidance: str = "guidance_scale"
    guidance_offset: float = 0.0
    negative_prompt: str | None = None


# by the class of the network
FAMILIES = {
    "SD3Transformer2DModel": Family("first"),
    "FluxTransformer2DModel": Family("last"),
    "OvisImageTransformer2DModel": Family("last"),
    "Flux2Transformer2DModel": Family("last"),
    "QwenImageTransformer2DModel": Family("last", guidance="true_cfg_scale", negative_prompt=" "),
    "ZImageTransformer2DModel": Family("first", padded=32, guidance_offset=1.0),
    "HunyuanImageTransformer2DModel": Family("first", before="encoder_attention_mask_2", guidance="guider"),
    "ChromaTransformer2DModel": Family("last"),
    "Lumina2Transformer2DModel": Family("last", ragged=True),
    "AuraFlowTransformer2DModel": Family("last", registers=8),
    "CogView4Transformer2DModel": Family("last"),
    "HiDreamImageTransformer2DModel": Family(
        "first", texts=("encoder_hidden_states_t5", *["encoder_hidden_states_llama3"] * 2)
    ),
    "Krea2Transformer2DModel": Family("last", guidance_offset=1.0),
    "HunyuanVideoTransformer3DModel": Family("first"),
    "CogVideoXTransformer3DModel": Family("last"),
}


def family_of(network: Any) -> Family:
    """What is said of a network, by its class."""
    return FAMILIES.get(type(network).__name__, Family())
