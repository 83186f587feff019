"""The lab's CLIPModel: contrastive, with each scene's own counterfactual in the batch as a hard negative."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from accord.training.loop import LoopConfig, Run
from accord_lab.recipes.saving import at_rest, save_half
from accord_lab.recipes.tokenizers import MAX_TOKENS, clip_tokenizer
from accord_lab.recipes.vae import to_tensor
from accord_lab.recipes.views import crop_thing, dense_loss, noun_head
from accord_lab.scenes.edits import KINDS, edit_scene
from accord_lab.scenes.grammar import Saying, caption
from accord_lab.scenes.lexicon import IMAGE_SIZE
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, sample_scene

DENSE_ONLY = 0.4  # first share of the steps: the vision tower alone, on the noun of every patch. Without it the
# contrastive loss learned colours and counts, and no silhouette at all in 700 steps (noun against swaps: 0.55)
CONTINUE_RATE = 0.5  # share of the learning rate when training goes on from finished weights
CROP_SHARE = 0.25
LOCAL = Saying(color=0.5, size=0.0, background=0.3, relation=0.0, opening=0.1)
SAYING = Saying(color=0.95, size=0.4, background=0.4, relation=0.8)


def config(steps: int = 2000) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=1e-3, weight_decay=0.05, ema_decay=0.998)


def build(tokenizer: CLIPTokenizer) -> CLIPModel:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "projection_dim": 128,
        "pad_token_id": tokenizer.pad_token_id,
        **ids,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "projection_dim": 128,
        "hidden_act": "gelu",
    }
    # the default initial weights are meant for ten times this width; with them nothing is learned of silhouettes
    text["initializer_factor"] = vision["initializer_factor"] = 4.0
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=128))


def image_processor() -> CLIPImageProcessorPil:
    half = [0.5, 0.5, 0.5]
    side = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return CLIPImageProcessorPil(size=side, do_center_crop=False, image_mean=half, image_std=half, do_convert_rgb=True)


def scenes(rng: np.random.Generator, size: int) -> list[Scene]:
    """`size` scenes in neighbouring pairs: a scene and the same with one thing changed."""
    out: list[Scene] = []
    while len(out) < size:
        scene = sample_scene(rng)
        for kind in rng.permutation(KINDS):
            other = edit_scene(scene, rng, str(kind))
            if other is not None and not other.held_out:
                out += [scene, other]
                break
    return out


def batch(rng: np.random.Generator, size: int, crops: int) -> tuple[np.ndarray, list[str]]:
    """Pictures uint8 [size, 64, 64, 3] and captions; the first `crops` of them windows around one thing."""
    images, texts = [], []
    for _ in range(crops):
        image, local = crop_thing(sample_scene(rng), rng, zoom=(1.0, 2.0))
        images.append(image)
        texts.append(caption(local, rng, LOCAL))
    for scene in scenes(rng, size - crops):
        images.append(render(scene))
        texts.append(caption(scene, rng, SAYING))
    return np.stack(images), texts


def train(
    folder: Path,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    start: Path | None = None,
    batch_size: int = 128,
) -> None:
    """Train into `folder/clip` (standard form, with tokenizer and image processor).

    With `start`, training goes on from the model in that lab folder, at a lower rate and without the dense task.
    """
    loop = replace(config(steps) if steps else config(), seed=seed)
    tokenizer = clip_tokenizer() if start is None else CLIPTokenizer.from_pretrained(start / "clip")
    torch.manual_seed(seed)
    if start is None:
        model = build(tokenizer).to(device)
    else:
        loop = replace(loop, learning_rate=loop.learning_rate * CONTINUE_RATE)
        model = CLIPModel.from_pretrained(start / "clip", dtype=torch.float32).to(device)
    head = noun_head(model.config.vision_config.hidden_size).to(device)
    run = Run({"clip": model, "head": head}, loop, Path(folder) / "runs" / "clip")

    def loss_fn(step: int, _generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, step))
        if start is None and step < DENSE_ONLY * loop.steps:
            tower = model.vision_model
            return dense_loss(lambda x: tower(x).last_hidden_state, head, rng, batch_size // 2, device), {}
        pictures, texts = batch(rng, batch_size, int(CROP_SHARE * batch_size))
        images = to_tensor(pictures).to(device)
        ids = tokenizer(texts, padding="longest", truncation=True, return_tensors="pt")
        out = model(
            input_ids=ids.input_ids.to(device), attention_mask=ids.attention_mask.to(device), pixel_values=images
        )
        logits = out.logits_per_image.float()
        target = torch.arange(batch_size, device=device)
        loss = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
        return loss, {"accuracy": float((logits.argmax(1) == target).float().mean())}

    run.train(loss_fn, "clip")
    run.use_ema()
    target = Path(folder) / "clip"
    save_half(model, target)
    at_rest(tokenizer).save_pretrained(target)
    image_processor().save_pretrained(target)
