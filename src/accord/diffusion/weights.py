"""Weights of words, as prompt programs have them: compel scales the states of the text encoders.

A pipeline can honour them where compel gives its own states for the plain prompt: those with CLIP's encoders alone
(Stable Diffusion 1, 2, XL). The pooled state of SD XL stays that of the plain prompt.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from accord.diffusion.opened import swapped
from accord.types import InputError

Pieces = Sequence[tuple[str, float]]
_NEAR = 1e-3  # how far compel's states of a plain prompt may be from the pipeline's, as a share of their largest


@contextmanager
def honoured(pipe: Any, weights: Mapping[str, Pieces]) -> Iterator[None]:
    """Within, the pipeline encodes the prompts that are keys of `weights` with the weights of their pieces.

    Args:
        weights: plain prompt to its pieces with their weights, as `accord.prompts.parser.weighted_text` gives them.

    Raises:
        InputError: if compel is not installed, or gives other states than the pipeline for a prompt without weights.
    """
    encode = _encoder(pipe)
    for prompt, pieces in weights.items():
        _check(pipe, encode, prompt, pieces)
    own = pipe.encode_prompt
    signature = inspect.signature(own)

    @functools.wraps(own)
    def encode_prompt(*args: Any, **kwargs: Any) -> Any:
        found = own(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        if given.get("clip_skip"):
            raise InputError("weights of words are not honoured with clip_skip; leave one of them out")
        prompt = given.get("prompt")
        texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
        states = found[0].clone()
        each = len(states) // max(len(texts), 1)
        for i, text in enumerate(texts):
            if text in weights:
                states[i * each : (i + 1) * each] = encode(weights[text]).to(states)
        return (states, *found[1:])

    with swapped(pipe, encode_prompt=encode_prompt):
        yield


def _encoder(pipe: Any) -> Callable[[Pieces], torch.Tensor]:
    """From pieces to the states [1,L,D] that the pipeline's network is given."""
    try:
        from compel import Compel, DiffusersTextualInversionManager, ReturnedEmbeddingsType
    except ImportError as error:
        raise InputError(
            "weights of words need the package compel; pip install 'accord-diffusion[weights]' or leave `weights` out"
        ) from error
    names = [n for n in ("text_encoder", "text_encoder_2", "text_encoder_3") if getattr(pipe, n, None) is not None]
    encoders = [getattr(pipe, n) for n in names]
    if not encoders or not all(type(e).__name__.startswith("CLIPText") for e in encoders):
        raise InputError(
            f"{type(pipe).__name__} has no text encoders of CLIP alone, weights of words cannot be honoured; leave "
            "`weights` out"
        )
    kinds = ReturnedEmbeddingsType
    kind = kinds.LAST_HIDDEN_STATES_NORMALIZED if len(names) == 1 else kinds.PENULTIMATE_HIDDEN_STATES_NON_NORMALIZED
    inversions = DiffusersTextualInversionManager(pipe) if hasattr(pipe, "maybe_convert_prompt") else None
    providers = [
        Compel(
            tokenizer=getattr(pipe, name.replace("text_encoder", "tokenizer")),
            text_encoder=encoder,
            textual_inversion_manager=inversions,
            returned_embeddings_type=kind,
        ).conditioning_provider
        for name, encoder in zip(names, encoders, strict=True)
    ]

    @torch.no_grad()
    def encode(pieces: Pieces) -> torch.Tensor:
        texts, scales = [t for t, _ in pieces], [w for _, w in pieces]
        states = [
            provider.get_embeddings_for_weighted_prompt_fragments([texts], [scales], device=encoder.device)
            for provider, encoder in zip(providers, encoders, strict=True)
        ]
        return torch.cat(states, -1)

    return encode


@torch.no_grad()
def _check(pipe: Any, encode: Callable[[Pieces], torch.Tensor], prompt: str, pieces: Pieces) -> None:
    own = pipe.encode_prompt(prompt, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False)[0]
    found = encode([(text, 1.0) for text, _ in pieces]).to(own)
    same = found.shape == own.shape and (found - own).abs().max() <= _NEAR * own.abs().max()
    if not same:
        raise InputError(
            f"{type(pipe).__name__} encodes {prompt[:40]!r} in another way than compel, weights cannot be honoured; "
            "leave `weights` out"
        )
