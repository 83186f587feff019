"""The lab's captioner (`BlipForConditionalGeneration`): whole scenes, and crops of single things for local captions.

Captions alone teach a small tower neither silhouettes nor which of two things is left (docs/log/judges.md), so each
patch is also asked for its noun, first alone and then beside the captions, and for where its thing lies.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import BertTokenizer, BlipConfig, BlipForConditionalGeneration, BlipImageProcessorPil

from accord.training.loop import LoopConfig, Run
from accord_lab.recipes.saving import at_rest, save_half
from accord_lab.recipes.tokenizers import MAX_TOKENS, bert_tokenizer
from accord_lab.recipes.vae import to_tensor
from accord_lab.recipes.views import (
    IGNORED,
    crop_thing,
    dense_loss,
    noun_head,
    noun_labels,
    patch_loss,
    relation_head,
    relation_labels,
)
from accord_lab.scenes.ask import lab_lexicon
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.lexicon import IMAGE_SIZE, RELATION_PHRASES
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import LAYOUTS, Scene, sample_scene

DENSE_ONLY = 0.4  # first share of the steps: the vision tower alone, on the noun of every patch
CONTINUE_RATE = 0.5  # share of the learning rate when training goes on from finished weights
# shares of the pictures; the rest are scenes of any layout
SHARES = {
    "empty": 0.03,
    "crop": 0.2,
    "crowd": 0.04,  # four things, which no prompt asks for and pictures show all the same
    "pairs": 0.05,
    "same+one": 0.07,  # as often as what is nearly it: two and one are asked for, and two and two are shown
    "same+two": 0.04,
    "trio+one": 0.04,
    "two": 0.15,  # with their relation in the caption
    "three": 0.18,  # of three kinds: the decoder has to know what it has said already
}
RELATION_WEIGHT = 4.0  # of the words that tell a relation: one of ten, and the last to be learned
RELATION_WORDS = {w for ps in RELATION_PHRASES.values() for p in ps for w in p.split()} - {
    "to",
    "the",
    "of",
    "on",
    "than",
}
WHOLE = Saying(
    color=0.7, size=0.25, background=0.25, relation=0.5
)  # many prompts name no colours: "a bolt and a plane"
PAIR = replace(WHOLE, relation=1.0)
LOCAL = Saying(color=0.7, size=0.0, background=0.2, relation=0.0, opening=0.1)


def config(steps: int = 6000) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=1e-3, weight_decay=0.05, ema_decay=0.998)


def build(tokenizer: BertTokenizer) -> BlipForConditionalGeneration:
    text: dict[str, float] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "encoder_hidden_size": 128,
        "intermediate_size": 512,
        "projection_dim": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "label_smoothing": 0.0,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.sep_token_id,
        "sep_token_id": tokenizer.sep_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, float] = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
    }
    text["initializer_range"] = vision["initializer_range"] = 0.08  # about 1/sqrt(width), see clip.py
    return BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=vision, projection_dim=128))


def image_processor() -> BlipImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    return BlipImageProcessorPil(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=half, image_std=half, do_convert_rgb=True
    )


def example(rng: np.random.Generator) -> tuple[np.ndarray, str, Scene | None]:
    """One picture, its caption and its scene: a whole scene, an empty background, or a crop of a thing (no scene)."""
    kind = str(rng.choice([*SHARES, "any"], p=[*SHARES.values(), 1 - sum(SHARES.values())]))
    scene = sample_scene(rng, kind if kind in LAYOUTS else None)
    if kind == "empty":
        scene = replace(scene, things=())
        return render(scene), f"a plain {scene.background} background", scene
    if kind == "crop":
        image, local = crop_thing(scene, rng)
        return image, caption(local, rng, LOCAL), None
    return render(scene), caption(scene, rng, PAIR if kind == "two" else WHOLE), scene


def train(
    folder: Path,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    start: Path | None = None,
    batch_size: int = 64,
) -> None:
    """Train into `folder/captioner` (standard form, with tokenizer and image processor).

    With `start`, training goes on from the model in that lab folder, at a lower rate and with captions from the first
    step.
    """
    loop = replace(config(steps) if steps else config(), seed=seed)
    tokenizer = bert_tokenizer() if start is None else BertTokenizer.from_pretrained(start / "captioner")
    torch.manual_seed(seed)
    if start is None:
        model = build(tokenizer).to(device)
    else:
        loop = replace(loop, learning_rate=loop.learning_rate * CONTINUE_RATE)
        model = BlipForConditionalGeneration.from_pretrained(start / "captioner", dtype=torch.float32).to(device)
    width = model.config.vision_config.hidden_size
    nouns, relations = noun_head(width).to(device), relation_head(width).to(device)
    modules = {"captioner": model, "head": nouns, "relations": relations}
    run = Run(modules, loop, Path(folder) / "runs" / "captioner")
    weights = torch.ones(len(tokenizer), device=device)
    weights[tokenizer.convert_tokens_to_ids(sorted(RELATION_WORDS))] = RELATION_WEIGHT

    def loss_fn(step: int, _generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, step))
        if start is None and step < DENSE_ONLY * loop.steps:
            return dense_loss(lambda x: model.vision_model(x).last_hidden_state, nouns, rng, batch_size, device), {}
        images, texts, scenes = zip(*(example(rng) for _ in range(batch_size)), strict=True)
        pixels = to_tensor(np.stack(images)).to(device)
        ids = tokenizer(list(texts), padding="longest", return_tensors="pt").to(device)
        ids.input_ids[:, 0] = tokenizer.bos_token_id  # BLIP starts its decoder with [DEC]
        states = model.vision_model(pixels).last_hidden_state
        logits = model.text_decoder(
            input_ids=ids.input_ids, attention_mask=ids.attention_mask, encoder_hidden_states=states
        ).logits
        target = ids.input_ids[:, 1:].masked_fill(ids.attention_mask[:, 1:] == 0, IGNORED)
        words = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), target.flatten(), weights, ignore_index=IGNORED)
        # both dense tasks go on beside the captions: without the nouns', they were forgotten for the relations
        places = patch_loss(states, relations, relation_labels, scenes)
        things = patch_loss(states, nouns, noun_labels, scenes)
        parts = {"words": words, "places": places, "things": things}
        return words + places + things, {k: float(v.detach()) for k, v in parts.items()}

    run.train(loss_fn, "captioner")
    run.use_ema()
    target = Path(folder) / "captioner"
    save_half(model, target)
    at_rest(tokenizer).save_pretrained(target)
    image_processor().save_pretrained(target)
    lab_lexicon().save(target / "lexicon.json")
