"""Predictors: an image to the embedding of its prompt and to the words in it. One interface, several kinds of tower.

Letters in shapes: B images, H W pixels, D width of the tower, E of the embedding (384), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from accord.diffusion.loading import LOADING, check_moments, kind_of, load_model, loading
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import UNETS, load
from accord.diffusion.spans import network_arguments
from accord.diffusion.state import held, seeded
from accord.diffusion.tower import features, opened_for_pictures, parts_of_features
from accord.methods.invert.config import PredictorConfig
from accord.types import InputError, a_kind

LAB_SIDE = 64
# of transformers: what a tower may be, and what of a whole model it has no use for
TOWER_KINDS = ("vit", "swin", "deit", "beit", "dinov2")
HEADS = ("pooler", "classifier", "cls_classifier", "distillation_classifier", "lm_head", "mask_token", "decoder")
ENCODED = 8 * 512 * 512  # pixels that a VAE encodes at once


class Tower(nn.Module):
    """A network from images [B,3,H,W] in 0..1 (and captions of them) to pooled features [B,width].

    Attributes:
        side: the square that images are scaled to before.
        width: D.
        needs_captions: whether `captions` are read.
    """

    side: int
    width: int
    needs_captions = False

    def forward(self, images: torch.Tensor, captions: Sequence[str] | None = None) -> torch.Tensor:
        raise NotImplementedError


class VisionTower(Tower):
    """A vision model of transformers, pooled by mean and maximum over its tokens: CLIP's, BLIP's, ViT or Swin.

    The maximum says whether something is anywhere; the mean alone says less (docs/log/inversion.md).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        config: Any = model.config
        self.side = int(config.image_size)
        self.width = 2 * int(config.hidden_size)
        self.register_buffer("mean", torch.tensor(list(mean)).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(list(std)).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor, captions: Sequence[str] | None = None) -> torch.Tensor:
        states = self.model(pixel_values=(images - self.mean) / self.std).last_hidden_state
        return torch.cat([states.mean(1), states.amax(1)], -1)


class UNetTower(Tower):
    """White box: the encoder and middle block of a denoiser at t = 0 on the VAE latent, conditioned on a caption of the
    image.

    Source: Reverse Stable Diffusion, section 3; pooling every level too (`all_levels`) is an option of this project.

    Args:
        pipe: a Stable Diffusion 1, 2 or XL pipeline; its VAE and text encoders are used as they are and not trained.
    """

    def __init__(self, pipe: Any, caption_conditioned: bool = True, all_levels: bool = False) -> None:
        super().__init__()
        unet = pipe.unet
        # encodes texts and pictures; no module, so what is not named below is neither moved nor saved
        self.opened = Opened(pipe, num_inference_steps=2, guidance_scale=1.0)
        self.conv_in, self.time_proj, self.time_embedding = unet.conv_in, unet.time_proj, unet.time_embedding
        self.down_blocks, self.mid_block = unet.down_blocks, unet.mid_block
        self.add_embedding = getattr(unet, "add_embedding", None)  # of XL: the pooled text and the sizes
        self.vae, self.text_encoder, self.text_encoder_2 = (
            pipe.vae,
            pipe.text_encoder,
            getattr(pipe, "text_encoder_2", None),
        )
        self._frozen().requires_grad_(False)
        self.needs_captions, self.all_levels = caption_conditioned, all_levels
        channels = unet.config.block_out_channels
        self.width = sum(channels) + channels[-1] if all_levels else channels[-1]
        size = unet.config.sample_size
        self.side = int(size) * pipe.vae_scale_factor

    def _frozen(self) -> nn.ModuleList:
        """What is not trained."""
        return nn.ModuleList(m for m in (self.vae, self.text_encoder, self.text_encoder_2) if m is not None)

    def train(self, mode: bool = True) -> UNetTower:
        super().train(mode)
        self._frozen().eval()
        return self

    def forward(self, images: torch.Tensor, captions: Sequence[str] | None = None) -> torch.Tensor:
        with held(self.opened.pipe.unet):  # whose blocks these are
            return self._features(images, captions)

    def _features(self, images: torch.Tensor, captions: Sequence[str] | None) -> torch.Tensor:
        with torch.no_grad():
            height, width = images.shape[-2:]
            sized = Opened(self.opened.pipe, num_inference_steps=2, guidance_scale=1.0, height=height, width=width)
            parts = images.split(max(1, ENCODED // self.side**2))
            latents = torch.cat([sized.encode([""] * len(part), part) for part in parts])
            texts = list(captions) if captions is not None and self.needs_captions else [""] * len(images)
            told = network_arguments(self.opened, texts)
            self.opened.forget()  # no batch comes twice, and embeddings of texts are large
        states = told["encoder_hidden_states"]
        zero = torch.zeros(len(images), dtype=torch.long, device=images.device)
        time = self.time_embedding(self.time_proj(zero).to(latents.dtype))
        added = self.opened.pipe.unet.get_aug_embed(time, states, told.get("added_cond_kwargs"))
        time = time if added is None else time + added
        x = self.conv_in(latents)
        levels = []
        for block in self.down_blocks:
            if getattr(block, "has_cross_attention", False):
                x, _ = block(hidden_states=x, temb=time, encoder_hidden_states=states)
            else:
                x, _ = block(hidden_states=x, temb=time)
            levels.append(x)
        x = self.mid_block(x, time, encoder_hidden_states=states)
        pooled = [v.mean((2, 3)) for v in ([*levels, x] if self.all_levels else [x])]
        return torch.cat(pooled, -1)


class DenoiserTower(Tower):
    """White box of any pipeline: its network, left at the block at half its depth, on the VAE latent, conditioned on a
    caption of the image.

    Args:
        opened: not guided, for pictures of this side; its VAE and text encoders are used as they are and not trained.
            What is trained are those parts of the network that run.
        side: of the pictures, in pixels.
    """

    def __init__(self, opened: Opened, side: int, caption_conditioned: bool = True) -> None:
        super().__init__()
        self.opened, self.side, self.needs_captions = opened, side, caption_conditioned
        parts = {name: part for name, part in opened.pipe.components.items() if isinstance(part, nn.Module)}
        self.outside = nn.ModuleDict({name: part for name, part in parts.items() if part not in opened.networks})
        self.outside.requires_grad_(False)
        blank = opened.encode([""], torch.full((1, 3, side, side), 0.5))
        self.network, self.width = parts_of_features(opened, [""], blank)

    def train(self, mode: bool = True) -> DenoiserTower:
        super().train(mode)
        self.outside.eval()
        return self

    def forward(self, images: torch.Tensor, captions: Sequence[str] | None = None) -> torch.Tensor:
        texts = list(captions) if captions is not None and self.needs_captions else [""] * len(images)
        most = max(1, ENCODED // self.side**2)
        parts = [self.opened.encode(texts[i : i + most], images[i : i + most]) for i in range(0, len(images), most)]
        found = features(self.opened, texts, torch.cat(parts))
        self.opened.forget()  # no batch comes twice, and embeddings of texts are large
        return found


class Predictor(nn.Module):
    """A tower with a head for the embedding and one for the vocabulary.

    Args:
        tower: see Tower.
        vocabulary: V; 0 for no classification.
        hidden: width of the shared hidden layer; 0 makes both heads linear.
        embedding: E.
    """

    def __init__(self, tower: Tower, vocabulary: int, hidden: int = 512, embedding: int = 384) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(tower.width)
        self.trunk = nn.Sequential(nn.Linear(tower.width, hidden), nn.GELU()) if hidden else nn.Identity()
        width = hidden or tower.width
        self.embed = nn.Linear(width, embedding)
        self.words = nn.Linear(width, vocabulary) if vocabulary else None

    @property
    def side(self) -> int:
        return self.tower.side

    @property
    def needs_captions(self) -> bool:
        return self.tower.needs_captions

    def forward(
        self, images: torch.Tensor, captions: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Images [B,3,side,side] in 0..1 to unit vectors [B,E] and word logits [B,V] (None without a vocabulary)."""
        features = self.trunk(self.norm(self.tower(images, captions).float()))
        logits = self.words(features) if self.words is not None else None
        return F.normalize(self.embed(features), dim=-1), logits

    def freeze_tower(self) -> None:
        """Train the heads alone."""
        self.tower.requires_grad_(False)


# --- making towers ----------------------------------------------------------------------------------------------------
def _denoiser(config: PredictorConfig) -> Tower:
    pipe = load(config.model, device="cpu")
    if type(pipe).__name__ not in UNETS:
        if config.all_levels:
            raise InputError(f"all_levels is for U-Nets of Stable Diffusion, and {a_kind(pipe)} has none")
        denoiser = DenoiserTower(*opened_for_pictures(pipe), config.caption_conditioned)
        denoiser.network.requires_grad_(True)
        return denoiser
    tower = UNetTower(pipe, config.caption_conditioned, config.all_levels)
    for block in (tower.down_blocks, tower.mid_block, tower.conv_in, tower.time_embedding, tower.add_embedding):
        if block is not None:
            block.requires_grad_(True)
    return tower


def _clip(config: PredictorConfig) -> Tower:
    from accord.judges.clip import load_clip

    scorer = load_clip(config.model)
    return VisionTower(
        scorer.model.vision_model.requires_grad_(True), scorer.mean.flatten().tolist(), scorer.std.flatten().tolist()
    )


def _blip(config: PredictorConfig) -> Tower:
    from accord.judges.captioners import load_captioner

    captioner = load_captioner(config.model)
    if not hasattr(captioner.model, "vision_model"):
        raise InputError(f"model {config.model!r} has no vision tower of a BLIP; use a BLIP or BLIP-2")
    vision = captioner.model.vision_model.requires_grad_(True)
    return VisionTower(vision, captioner.mean.flatten().tolist(), captioner.std.flatten().tolist())


def _vit(config: PredictorConfig) -> Tower:
    from transformers import ViTConfig, ViTModel

    if config.model is not None:
        return _hub(config.model)
    small = ViTConfig(
        image_size=LAB_SIDE,
        patch_size=8,
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.08,
    )
    return VisionTower(ViTModel(small, add_pooling_layer=False), [0.5] * 3, [0.5] * 3)


def _swin(config: PredictorConfig) -> Tower:
    from transformers import SwinConfig, SwinModel

    if config.model is not None:
        return _hub(config.model)
    small = SwinConfig(
        image_size=LAB_SIDE,
        patch_size=4,
        embed_dim=48,
        depths=[2, 2, 4],
        num_heads=[2, 4, 8],
        window_size=4,
        drop_path_rate=0.0,
        initializer_range=0.08,
    )
    return VisionTower(SwinModel(small, add_pooling_layer=False), [0.5] * 3, [0.5] * 3)


def tower_classes() -> dict[str, tuple[Any, Any]]:
    """What a vision tower may be: its kind -> the class of the network and that of its configuration.

    Nothing else is ever called.
    """
    import transformers as t

    return {
        "blip": (t.BlipVisionModel, t.BlipVisionConfig),
        "clip": (t.CLIPVisionModel, t.CLIPVisionConfig),
        "vit": (t.ViTModel, t.ViTConfig),
        "swin": (t.SwinModel, t.SwinConfig),
        "deit": (t.DeiTModel, t.DeiTConfig),
        "beit": (t.BeitModel, t.BeitConfig),
        "dinov2": (t.Dinov2Model, t.Dinov2Config),
    }


def _hub(model: str) -> Tower:
    """A ViT or Swin of the hub or a folder."""
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    what = f"tower {model!r}"
    kind = kind_of(model, what)
    if kind not in TOWER_KINDS:
        raise InputError(f"{what} is a {kind} model; use one of {', '.join(TOWER_KINDS)}")
    network_class = tower_classes()[kind][0]
    bare = {"add_pooling_layer": False} if "add_pooling_layer" in signature(network_class).parameters else {}
    network = load_model(network_class, model, what, unused=HEADS, dtype=torch.float32, **bare)
    with loading(what):
        processor = get_image_processor_config(model, trust_remote_code=False)
    mean, std = processor.get("image_mean", [0.485, 0.456, 0.406]), processor.get("image_std", [0.229, 0.224, 0.225])
    check_moments(mean, std, what)
    return VisionTower(network.requires_grad_(True), mean, std)


def tower_side(config: PredictorConfig) -> int:
    """Side of the pictures that a predictor looks at, from its model's configuration alone where that tells it.

    Raises:
        InputError: for a model that cannot be read.
    """
    from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
    from transformers import AutoConfig

    if config.model is None:
        return LAB_SIDE
    with loading(f"model {config.model!r} of the predictor {config.kind!r}"):
        if config.is_white_box:
            if DiffusionPipeline.load_config(config.model)["_class_name"] not in UNETS:
                return opened_for_pictures(load(config.model, device="cpu"))[1]
            side = UNet2DConditionModel.load_config(config.model, subfolder="unet")["sample_size"]
            blocks = AutoencoderKL.load_config(config.model, subfolder="vae")["block_out_channels"]
            return 2 ** (len(blocks) - 1) * int(side if isinstance(side, int) else side[0])
        found = AutoConfig.from_pretrained(config.model, trust_remote_code=False)
        side = getattr(found, "vision_config", found).image_size
        return int(side if isinstance(side, int) else side[0])


TOWERS: dict[str, Callable[[PredictorConfig], Tower]] = {
    "unet": _denoiser,
    "denoiser": _denoiser,
    "clip": _clip,
    "vit": _vit,
    "swin": _swin,
    "blip": _blip,
}


def build(config: PredictorConfig, vocabulary: int, seed: int = 0, embedding: int = 384) -> Predictor:
    """A fresh predictor of one kind, in float32 on the CPU."""
    with LOADING, seeded(seed):  # in this order, as a loader may call this
        return Predictor(TOWERS[config.kind](config), vocabulary, config.hidden, embedding)
