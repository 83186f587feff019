"""Roles in the text states: the text objective of the lab's base.

A contrastive CLIP does not learn which thing is left of which: "left of" against "right of" changes the state of the
second noun by 2 % of its norm, and of the first, which causal attention lets see nothing that follows, not at all. The
denoiser cannot pull apart what is not there. But the paddings at the end of a prompt see all of it. So the last ones
become registers, REGISTERS for each thing, and learn to hold a copy of its noun's state with fixed random vectors of
what the prompt says of it: both its role in a relation, the second its count, size and colour besides. The tokens of
the second phrase, which do know the relation, get its role too. All other states stay as they are.

The tower is an ordinary CLIPTextModel, and plain diffusers loads the pipeline. Its configuration names the registers.

Letters in shapes: N captions, T tokens, K things, C channels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from torch import nn
from tqdm.auto import tqdm
from transformers import CLIPTextModel, CLIPTokenizer

from accord.diffusion.registers import REGISTERS_KEY
from accord.training.loop import LoopConfig, Run
from accord_lab.scenes.grammar import NOTHING, Said, Saying, say
from accord_lab.scenes.lexicon import COLORS, RELATION_PHRASES, SIZES
from accord_lab.scenes.scene import sample_scene

THINGS, REGISTERS = 3, 2  # things of a prompt that get registers, and how many each
ROLE, ATTRIBUTE = 1.2, 0.7  # weights of their vectors, where the noun's state has 1
POOL, HELD_OUT = 8_000, 400  # captions, and how many of them are only measured
TWO = 0.5  # share of captions of two things
SAYING = Saying(color=0.85, size=0.4, background=0.35, relation=0.8, opening=0.3)
EMPTY = 0.5  # weight of the empty prompt, whose states must stay
MARKED = 2.0  # weight of states that get a vector
KINDS: dict[str, tuple[str | int, ...]] = {  # what a `SaidThing` says, and the words for it
    "role": tuple(RELATION_PHRASES),
    "count": (1, 2, 3),
    "size": tuple(SIZES),
    "color": tuple(COLORS),
}


def config(steps: int = 700) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=6e-4, weight_decay=0.01, warmup_steps=20, ema_decay=0.99)


def registers(length: int) -> list[list[int]]:
    """Positions of the registers of each thing: the last tokens of `length`."""
    first = length - THINGS * REGISTERS
    return [list(range(first + k * REGISTERS, first + (k + 1) * REGISTERS)) for k in range(THINGS)]


@dataclass(frozen=True)
class Labels:
    """What captions say of their things.

    Attributes:
        words: int64 [N, K] of each kind: 1 + the number of the word in KINDS, 0 where nothing is said.
        phrases: bool [N, K, T], the tokens of each thing's phrase.
        nouns: int64 [N, K], the token of its noun; -1 for a thing that is not there.
        ends: int64 [N], the end of the text; paddings come after it.
    """

    words: dict[str, torch.Tensor]
    phrases: torch.Tensor
    nouns: torch.Tensor
    ends: torch.Tensor

    def __getitem__(self, index: torch.Tensor) -> Labels:
        words = {kind: numbers[index] for kind, numbers in self.words.items()}
        return Labels(words, self.phrases[index], self.nouns[index], self.ends[index])


def label(captions: Sequence[Said], tokenizer: CLIPTokenizer) -> tuple[torch.Tensor, Labels]:
    """Token ids [N, T] of captions and what they say of their first THINGS things."""
    texts = [said.text for said in captions]
    encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt", return_offsets_mapping=True)
    ids, start, end = encoded.input_ids, encoded.offset_mapping[..., 0], encoded.offset_mapping[..., 1]
    words = {kind: torch.zeros(len(texts), THINGS, dtype=torch.long) for kind in KINDS}
    phrases = torch.zeros(len(texts), THINGS, ids.shape[1], dtype=torch.bool)
    nouns = torch.full((len(texts), THINGS), -1)
    for n, said in enumerate(captions):
        for k, thing in enumerate(said.things[:THINGS]):
            phrases[n, k] = (start[n] < thing.end) & (end[n] > thing.start)
            nouns[n, k] = int(((start[n] <= thing.head) & (end[n] > thing.head)).int().argmax())
            for kind, known in KINDS.items():
                word = getattr(thing, kind)
                words[kind][n, k] = 0 if word is None else 1 + known.index(word)
    ends = (ids == tokenizer.eos_token_id).int().argmax(1)
    return ids, Labels(words, phrases, nouns, ends)


def codes(channels: int) -> dict[str, torch.Tensor]:
    """A fixed random vector for each word of each kind, [1 + words, C] of mean 0 and variance 1; row 0 is zero."""
    generator = torch.Generator().manual_seed(0)
    out = {}
    for kind, words in KINDS.items():
        drawn = torch.randn(len(words), channels, generator=generator)
        drawn = (drawn - drawn.mean(1, keepdim=True)) / drawn.std(1, keepdim=True)
        out[kind] = torch.cat([torch.zeros(1, channels), drawn])
    return out


def mix(states: torch.Tensor, added: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    """States [..., C] with vectors in them, as the final LayerNorm could have put them out."""
    inner = (states - norm.bias) / norm.weight + added
    return nn.functional.layer_norm(inner, inner.shape[-1:], eps=0.0) * norm.weight + norm.bias


def targets(old: torch.Tensor, labels: Labels, norm: nn.LayerNorm) -> tuple[torch.Tensor, torch.Tensor]:
    """What the states [N, T, C] shall be, and how much each counts [N, T].

    Args:
        old: states of the tower as it was.
        norm: its final LayerNorm.
    """
    target, weight = old.clone(), torch.ones(old.shape[:2])
    vectors = {kind: v.to(old) for kind, v in codes(old.shape[-1]).items()}
    rows = torch.arange(len(old))
    for k, positions in enumerate(registers(old.shape[1])):
        role = ROLE * vectors["role"][labels.words["role"][:, k]]
        if k == 1:
            second = labels.phrases[:, k] & (labels.words["role"][:, k] > 0)[:, None]
            target[second] = mix(old, role[:, None], norm)[second]
            weight[second] = MARKED
        noun = old[rows, labels.nouns[:, k].clamp(min=0)]
        attributes = sum(ATTRIBUTE * vectors[kind][labels.words[kind][:, k]] for kind in ("count", "size", "color"))
        for register, position in enumerate(positions):
            there = (labels.nouns[:, k] >= 0) & (labels.ends < position)
            told = mix(noun, role + attributes if register else role, norm)
            target[there, position] = told[there]
            weight[there, position] = MARKED
    return target, weight


def captions(count: int, seed: int) -> list[Said]:
    """`count` captions with a relation in most; no prompt of a held-out combination is among them."""
    rng = np.random.default_rng((seed, 31))
    return [say(sample_scene(rng, "two" if rng.random() < TWO else None), rng, SAYING) for _ in range(count)]


def final_norm(tower: CLIPTextModel) -> nn.LayerNorm:
    return next(m for name, m in tower.named_modules() if name.endswith("final_layer_norm"))


def train(
    folder: Path, steps: int | None = None, seed: int = 0, device: str = "cpu", start: Path | None = None
) -> None:
    """Train the tower of the pipeline in the lab folder `start` into `folder/pipeline`; nothing else of it changes."""
    from accord_lab.recipes.denoiser import save_pipeline

    assert start is not None
    loop = replace(config(steps) if steps else config(), seed=seed)
    pipe = StableDiffusionPipeline.from_pretrained(start / "pipeline", torch_dtype=torch.float32)
    tokenizer, tower = pipe.tokenizer, pipe.text_encoder.to(device)
    old = copy.deepcopy(tower).eval().requires_grad_(False)
    ids, labels = label([NOTHING, *captions(POOL, seed)], tokenizer)
    with torch.no_grad():
        before = torch.cat([old(part.to(device)).last_hidden_state.cpu() for part in tqdm(ids.split(250), "states")])
    size = before.square().sum(-1).mean()
    run = Run({"text": tower}, loop, folder / "runs" / "roles")

    def error(index: torch.Tensor) -> torch.Tensor:
        """Squared error of each state [N, T], relative to the mean square of all, weighted."""
        states = tower(ids[index].to(device)).last_hidden_state.cpu()
        target, weight = targets(before[index], labels[index], final_norm(old).cpu())
        return weight * (states - target).square().sum(-1) / size

    held_out = torch.arange(len(ids) - HELD_OUT, len(ids))

    def loss_fn(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        index = torch.randint(1, len(ids) - HELD_OUT, (64,), generator=generator)
        errors = error(torch.cat([torch.zeros(1, dtype=torch.long), index]))
        loss = errors[1:].mean() + EMPTY * errors[0].mean()
        if step % loop.log_every:
            return loss, {}
        with torch.no_grad():
            measured = error(held_out)
        last = measured[:, -THINGS * REGISTERS :]
        return loss, {"registers": float(last.mean()), "rest": float(measured[:, : -last.shape[1]].mean())}

    run.train(loss_fn, "roles")
    run.use_ema()
    setattr(tower.config, REGISTERS_KEY, registers(ids.shape[1]))
    save_pipeline(folder / "pipeline", pipe.vae, tower, tokenizer, pipe.unet, pipe.scheduler)


def registers_as_phrases(tokens: torch.Tensor, positions: Sequence[Sequence[int]]) -> torch.Tensor:
    """Tokens [B, G, T] of phrases with each thing's registers counted among its own; as they are without registers.

    Args:
        positions: of the registers of each thing, as `registers_of` gives them.
    """
    tokens = tokens.clone()
    for k, own in enumerate(positions[: tokens.shape[1]]):
        there = tokens[:, k].sum(1, keepdim=True) > 0
        tokens[:, k, list(own)] = tokens[:, k, list(own)].masked_fill(there, 1.0)
    return tokens
