"""The lab's denoiser and the whole `StableDiffusionPipeline` folder.

v-prediction with zero terminal SNR, on latents that were encoded once. The text tower starts as the lab CLIP's and is
tuned along. Which silhouette a noun is comes last by far (colours, backgrounds, counts and sizes are there after 50,000
samples, silhouettes not after 130,000), because while a thing can be anywhere its noun predicts next to nothing of a
noisy latent. So training begins with one big thing in the middle, then one thing anywhere, then all scenes (with some
of the first two among them). Half of the timesteps are drawn where shape is decided. The cross-attention learns which
phrase each place belongs to (`grounding`); without that it was at chance after 14,800 steps.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from accord.diffusion.process import kind_of, level_at
from accord.diffusion.registers import registers_of
from accord.files import replace_file
from accord.methods.video.hook import attention_hook
from accord.training.fingerprint import fingerprint
from accord.training.loop import LoopConfig, Run, computes_bf16
from accord_lab.recipes.grounding import Grounding, targets
from accord_lab.recipes.roles import registers_as_phrases
from accord_lab.recipes.saving import at_rest, load_in_float32
from accord_lab.recipes.vae import to_tensor
from accord_lab.scenes.grammar import FULL, NOTHING, Saying, say
from accord_lab.scenes.lexicon import IMAGE_SIZE, SIZES
from accord_lab.scenes.render import render, silhouette
from accord_lab.scenes.scene import Scene, sample_scene

SCENES = 60_000
CENTRED = 2_000  # further scenes of one big thing in the middle
CENTRED_UNTIL, SINGLES_UNTIL = 0.15, 0.35  # of the steps: centred things alone, then single things alone
REPLAY = (0.1, 0.3)  # shares of centred and of single things in the batches after that
SHAPE_TIMESTEPS = (300, 950)  # half of the timesteps come from here
LAYOUT_TIMESTEPS = (600, 900)  # where it is decided what is where; above, the latents tell nothing and the loss is 1
CONTINUE_RATE = 0.45  # share of the learning rate when training goes on from finished weights
CONTINUE_REPLAY = (0.02, 0.3)  # 0.02 and 0.18 bring bindings and places faster, and leave silhouettes soft
CONTINUE_LAYOUT = 0.25  # share of timesteps from LAYOUT_TIMESTEPS, when training goes on
DETAILED = {"car": 4}  # how often these come among single things, going on: windows and wheels are learnt last
CONTINUE_SAYING = (0.15, 0.45)  # shares of captions that tell all and that tell next to nothing, when training goes on
SPARSE = Saying(color=0.2, size=0.1, background=0.1)  # of "a moon" much must be made up: one colour, one moon
# going on from a tower with registers (recipe `roles`): pairs of unlike things with their relation told, their places
# decided early; with no more than this of them, and sizes often told, nothing else is forgotten
ROLES_RATE = 0.6  # as CONTINUE_RATE
RELATED_UNTIL, RELATED = 0.1, 0.4  # of the steps, batches of such pairs alone; then their share
RELATED_LAYOUT = 0.75  # share of their timesteps from LAYOUT_TIMESTEPS
RELATED_SAYING, SIZED, SIZED_SHARE = Saying(relation=1.0), Saying(size=1.0), 0.3
KEEP_TEXT = 1.0  # weight of the tower's states being those that it started with
GROUNDING = 0.2  # weight of the contest of phrases for pixels
CAPTION_DROPOUT = 0.1  # empty prompts, for classifier-free guidance


def config(steps: int = 7000) -> LoopConfig:
    return LoopConfig(steps=steps, learning_rate=8e-4, weight_decay=0.01, ema_decay=0.999, warmup_steps=100)


def build(cross_attention_dim: int, widths: tuple[int, ...] = (64, 128, 128)) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=widths,
        layers_per_block=1,
        attention_head_dim=2,  # the number of heads, as in Stable Diffusion 1
        cross_attention_dim=cross_attention_dim,
        norm_num_groups=16,
    )


def scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )


def text_tower(clip: CLIPModel) -> CLIPTextModel:
    """The text half of a CLIPModel as the CLIPTextModel of a pipeline."""
    tower = CLIPTextModel(CLIPTextConfig(**clip.config.text_config.to_dict()))
    own = set(tower.state_dict())
    half = clip.text_model.state_dict()
    prefix = "text_model." if any(k.startswith("text_model.") for k in own) else ""
    tower.load_state_dict({prefix + k: v for k, v in half.items() if prefix + k in own})
    return tower


def scene_of(index: int, seed: int) -> Scene:
    """Scene number `index` of the training set; the last CENTRED of it are centred."""
    rng = np.random.default_rng((seed, 77, index))
    return sample_scene(rng) if index < SCENES else centred_scene(rng)


def centred_scene(rng: np.random.Generator, jitter: int = 1) -> Scene:
    """One big thing within `jitter` pixels of the middle, always of one size."""
    scene = sample_scene(rng, layout="one")
    thing = replace(scene.things[0], size="big")
    alpha = silhouette(thing.noun, SIZES["big"][1])
    h, w = alpha.shape
    x, y = (int((IMAGE_SIZE - s) // 2 + rng.integers(-jitter, jitter + 1)) for s in (w, h))
    return replace(scene, things=(replace(thing, box=(x, y, x + w, y + h)),))


def shares(done: float) -> tuple[float, float]:
    """Shares of centred and of single things in a batch when `done` of the steps are taken (from scratch)."""
    if done < CENTRED_UNTIL:
        return 1.0, 0.0
    return (0.0, 1.0) if done < SINGLES_UNTIL else REPLAY


def scene_pools(seed: int, going_on: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of the scenes of a centred thing, of a single thing, and of the rest.

    Going on, the rest has several things (what is left to learn; single ones come at their own share), and things of
    many details come often among the single ones.
    """
    centred, scenes = np.arange(SCENES, SCENES + CENTRED), [scene_of(i, seed).things for i in range(SCENES)]
    if not going_on:
        return centred, np.flatnonzero([len(things) == 1 for things in scenes]), np.arange(SCENES)
    often = [DETAILED.get(things[0].noun, 1) if len(things) == 1 else 0 for things in scenes]
    return centred, np.repeat(np.arange(SCENES), often), np.flatnonzero([len(things) > 1 for things in scenes])


def related_pool(seed: int) -> np.ndarray:
    """Numbers of the scenes of two unlike things."""
    scenes = [scene_of(i, seed).things for i in range(SCENES)]
    return np.flatnonzero([len(things) == 2 and things[0].noun != things[1].noun for things in scenes])


def draw_scenes(
    rng: np.random.Generator, size: int, share: tuple[float, float], pools: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> np.ndarray:
    """Numbers [size] of scenes.

    Args:
        share: of the first two pools; the third gets the rest.
        pools: numbers of scenes of a centred thing, of a single thing, and of the rest.
    """
    kind = rng.random(size)
    centred, single, rest = (rng.choice(pool, size=size) for pool in pools)
    return np.where(kind < share[0], centred, np.where(kind < sum(share), single, rest))


def draw_sayings(rng: np.random.Generator, centred: np.ndarray, share: tuple[float, float]) -> list[Saying]:
    """What the captions tell: shares of FULL and of SPARSE, the rest as usual.

    Args:
        centred: bool [size]. Their captions say everything: what a caption leaves open is noise to the gradient of the
            rest.
    """
    kind = np.where(centred, 0.0, 1 - rng.random(len(centred)))  # in (0, 1]: a share of 0 is none
    return [FULL if k <= share[0] else SPARSE if k <= sum(share) else Saying() for k in kind]


def draw_timesteps(rng: np.random.Generator, size: int, count: int, layout: float = 0.0) -> torch.Tensor:
    """int64 [size] out of `count`: a share `layout` from LAYOUT_TIMESTEPS, the rest half anywhere, half
    SHAPE_TIMESTEPS.
    """
    anywhere, shape, early = (rng.integers(*r, size=size) for r in ((0, count), SHAPE_TIMESTEPS, LAYOUT_TIMESTEPS))
    kind = rng.random(size)
    rest = np.where(kind < (1 + layout) / 2, anywhere, shape)
    return torch.from_numpy(np.where(kind < layout, early, rest))


@torch.no_grad()
def encode_scenes(vae: AutoencoderKL, cache: Path, count: int, seed: int, device: str) -> torch.Tensor:
    """Latents (posterior means) of `count` scenes, fp16 [count, 4, 16, 16]; cached in a file.

    The posterior's noise is left out: it is half as strong as the signal (the decoder is that robust), and a denoiser
    trained on samples spends itself on predicting noise (loss 0.97 after 400 steps).
    """
    if cache.exists():
        saved = load_file(cache)["mean"]
        if len(saved) == count:
            return saved
    vae = vae.to(device).to(memory_format=torch.channels_last).eval()
    means = []
    for start in tqdm(range(0, count, 250), desc="encode", mininterval=2.0):
        images = np.stack([render(scene_of(i, seed)) for i in range(start, min(count, start + 250))])
        pixels = to_tensor(images).to(device, memory_format=torch.channels_last)
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=computes_bf16(device)):
            mean = vae.encode(pixels).latent_dist.mean
        means.append(mean.half().cpu().contiguous())
    latents = torch.cat(means)
    replace_file(cache, lambda p: save_file({"mean": latents}, p))
    return latents


def train(
    folder: Path,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    start: Path | None = None,
    batch_size: int = 32,
    process: Any | None = None,
    name: str = "denoiser",
) -> None:
    """Train into `folder/pipeline` (a StableDiffusionPipeline folder).

    Without `start` this needs `folder/vae` and `folder/clip`; with it, training goes on from the pipeline in that lab
    folder, at a lower rate and without the first stages of the curriculum.

    Args:
        process: the scheduler that says what x_t and the target are, and that the pipeline is saved with; if None that
            of a flow to start from, else `scheduler()`. Timesteps are drawn as those of `scheduler()` and then moved to
            where `process` has as much noise for its signal.
        name: of the run's folder.
    """
    folder, count = Path(folder), SCENES + CENTRED
    loop = replace(config(steps) if steps else config(), seed=seed)
    noise_scheduler = scheduler()
    torch.manual_seed(seed)
    if start is None:
        vae = AutoencoderKL.from_pretrained(folder / "vae", torch_dtype=torch.float32)
        tokenizer = CLIPTokenizer.from_pretrained(folder / "clip")
        tower = text_tower(CLIPModel.from_pretrained(folder / "clip", dtype=torch.float32))
        unet = build(tower.config.hidden_size)
    else:
        pipe = StableDiffusionPipeline.from_pretrained(start / "pipeline", torch_dtype=torch.float32)
        vae, tokenizer, tower, unet = pipe.vae, pipe.tokenizer, pipe.text_encoder, pipe.unet
        process = process or (pipe.scheduler if kind_of(pipe.scheduler) == "velocity" else None)
    process = process or scheduler()
    registers = registers_of(tower)
    if start is not None:
        loop = replace(loop, learning_rate=loop.learning_rate * (ROLES_RATE if registers else CONTINUE_RATE))
    encoded = encode_scenes(
        vae, folder / "runs" / name / f"latents-{seed}-{fingerprint(vae)}.safetensors", count, seed, device
    )
    tower.to(device).set_attn_implementation("eager")  # for the same reason as the U-Net's processor below
    # float32 convolutions this narrow are faster as they are (1.15 against 1.30 s a step on two cores)
    layout = torch.channels_last if computes_bf16(device) else torch.contiguous_format
    unet = unet.to(device).to(memory_format=layout)
    first = copy.deepcopy(tower).eval().requires_grad_(False)  # before a run that goes on loads its own
    run = Run({"unet": unet, "text": tower}, loop, folder / "runs" / name)
    # fused attention is slow backwards on a CPU at this size (measured: 1.05 s against 0.65 s a step)
    if torch.device(device).type == "cpu":
        unet.set_attn_processor(AttnProcessor())

    grounding = Grounding()
    pools = scene_pools(seed, going_on=start is not None)
    pairs = related_pool(seed) if registers else np.arange(0)

    def loss_fn(step: int, generator: torch.Generator) -> tuple[torch.Tensor, dict[str, float]]:
        rng = np.random.default_rng((seed, step))
        share = CONTINUE_REPLAY if start else shares(step / loop.steps)
        index = draw_scenes(rng, batch_size, share, pools)
        related = np.zeros(batch_size, dtype=bool)
        if registers:
            related = rng.random(batch_size) < (1.0 if step < RELATED_UNTIL * loop.steps else RELATED)
            index = np.where(related, rng.choice(pairs, size=batch_size), index)
        scenes = [scene_of(int(i), seed) for i in index]
        sayings = draw_sayings(rng, index >= SCENES, CONTINUE_SAYING if start else (0.0, 0.0))
        if registers:
            sized = rng.random(batch_size) < SIZED_SHARE
            usual = [SIZED if size else saying for size, saying in zip(sized, sayings, strict=True)]
            sayings = [RELATED_SAYING if pair else saying for pair, saying in zip(related, usual, strict=True)]
        captions = [
            NOTHING if rng.random() < CAPTION_DROPOUT else say(scene, rng, saying)
            for scene, saying in zip(scenes, sayings, strict=True)
        ]
        encoded_texts = tokenizer(
            [said.text for said in captions],
            padding="max_length",
            truncation=True,
            return_tensors="pt",
            return_offsets_mapping=True,
        )
        tokens, places = targets(captions, scenes, encoded_texts.offset_mapping)
        latents = (encoded[index].float() * vae.config.scaling_factor).to(device)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        timesteps = draw_timesteps(
            rng, batch_size, noise_scheduler.config.num_train_timesteps, CONTINUE_LAYOUT if start else 0.0
        )
        if registers:
            early = draw_timesteps(rng, batch_size, noise_scheduler.config.num_train_timesteps, RELATED_LAYOUT)
            timesteps = torch.where(torch.from_numpy(related), early, timesteps)
        timesteps = as_noisy(noise_scheduler, process, timesteps).to(device)
        noisy, target = noised(process, timesteps, latents, noise)
        noisy = noisy.contiguous(memory_format=layout)
        ids = encoded_texts.input_ids.to(device)
        states = tower(ids).last_hidden_state
        velocity = unet(noisy, timesteps, states).sample.float()
        error = (velocity - target).square().mean()
        contest = grounding.loss(registers_as_phrases(tokens, registers).to(device), places.to(device))
        loss, logged = error + GROUNDING * contest, {"error": error, "contest": contest}
        if registers:
            with torch.no_grad():
                kept = first(ids).last_hidden_state
            logged["text"] = (states - kept).square().mean() / kept.square().mean()
            loss = loss + KEEP_TEXT * logged["text"]
        return loss, {key: float(value.detach()) for key, value in logged.items()}

    with attention_hook(unet, grounding):
        run.train(loss_fn, name)
    run.use_ema()
    save_pipeline(folder / "pipeline", vae, tower, tokenizer, unet, process)


def as_noisy(scheduler: DDIMScheduler, process: Any, timesteps: torch.Tensor) -> torch.Tensor:
    """The times [B] of a process at which the ratio of noise and signal is that of these timesteps of a scheduler.

    The x_t of the two are then the same but for their length. Times of a flow are float32, others stay as they are.
    """
    if kind_of(process) != "velocity":
        return timesteps
    level = level_at(scheduler, timesteps, timesteps)
    return level.s / (level.a + level.s) * process.config.num_train_timesteps


def noised(
    process: Any, timesteps: torch.Tensor, latents: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """x_t [B,...] of a process at these times [B], and what the denoiser is to say there."""
    level = level_at(process, timesteps, latents)
    return level.noised(latents, noise), level.target(latents, noise)


def save_pipeline(
    target: Path,
    vae: AutoencoderKL,
    tower: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    unet: UNet2DConditionModel,
    process: Any | None = None,
) -> None:
    """Write the standard folder, weights in fp16."""
    for module in (vae, unet):
        module.register_to_config(_name_or_path="")  # or the folder of this machine is saved
    StableDiffusionPipeline(
        vae=vae.cpu().half(),
        text_encoder=tower.cpu().half(),
        tokenizer=at_rest(tokenizer),
        unet=unet.cpu().half(),
        scheduler=process or scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(target)
    load_in_float32(target / "text_encoder")
