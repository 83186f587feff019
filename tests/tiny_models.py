"""Tiny random-weight pipelines of the real classes, and pictures of the lab."""

import threading

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from PIL import Image
from transformers import (
    AutoTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    BlipConfig,
    BlipForConditionalGeneration,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Florence2Config,
    Florence2ForConditionalGeneration,
    RobertaTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)
from zoo import at_rest, byte_level
from zoo import clip_tokenizer as tiny_tokenizer

from accord.diffusion import state
from accord.embedded import FOLDER as MODELS
from accord.judges.captioners import Captioner
from accord.judges.florence import Florence2Captioner
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, Thing
from accord_lab.scenes.videos import MovingScene, moving_scene

torch.set_num_threads(min(2, torch.get_num_threads()))


def tiny_vae(shift_factor: float | None = None) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        sample_size=32,
        shift_factor=shift_factor,
    )


def tiny_pipeline(kind: str = "sd1") -> StableDiffusionPipeline:
    """SD1 (epsilon, number of heads) or SD2 (v-prediction, linear projections, head width), a few thousand weights."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    sd2 = kind == "sd2"
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=(2, 4) if sd2 else 2,
        use_linear_projection=sd2,
        norm_num_groups=8,
    )
    vae = tiny_vae()
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=77,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        prediction_type="v_prediction" if sd2 else "epsilon",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    pipe = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    return at_rest(pipe)


def text_config(tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        max_position_embeddings=77,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def tiny_sdxl() -> StableDiffusionXLPipeline:
    """SDXL's classes: two text encoders, pooled text and time ids beside the states."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()

    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=64,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2),
        projection_class_embeddings_input_dim=6 * 8 + 32,
        norm_num_groups=8,
    )
    pipe = StableDiffusionXLPipeline(
        vae=tiny_pipeline().vae,
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer=tokenizer,
        tokenizer_2=tiny_tokenizer(),
        unet=unet,
        scheduler=EulerDiscreteScheduler(
            beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, steps_offset=1
        ),
        add_watermarker=False,
    )
    return at_rest(pipe)


T5_PIECES = ("<pad>", "</s>", "<unk>", "▁a", "▁red", "▁blue", "▁star", "▁key", "▁and")


def t5_tokenizer() -> T5TokenizerFast:
    return T5TokenizerFast(vocab=[(piece, -1.0) for piece in T5_PIECES], extra_ids=0, model_max_length=256)


def tiny_t5(width: int) -> T5EncoderModel:
    return T5EncoderModel(
        T5Config(vocab_size=len(T5_PIECES), d_model=width, d_kv=8, d_ff=32, num_layers=1, num_heads=4)
    )


def tiny_sd3() -> StableDiffusion3Pipeline:
    """Stable Diffusion 3's classes: a joint transformer, flow matching, two CLIPs and a T5."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    transformer = SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        out_channels=4,
        pos_embed_max_size=16,
    )
    pipe = StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=tiny_vae(shift_factor=0.1),
        text_encoder=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=CLIPTextModelWithProjection(text_config(tokenizer)),
        tokenizer_2=tiny_tokenizer(),
        text_encoder_3=tiny_t5(64),
        tokenizer_3=t5_tokenizer(),
    )
    return at_rest(pipe)


def tiny_flux() -> FluxPipeline:
    """Flux's classes: packed latents, rotary positions, guidance as an input, CLIP's pooled text and T5's states."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
    )
    pipe = FluxPipeline(
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=tiny_vae(shift_factor=0.1),
        text_encoder=CLIPTextModel(text_config(tokenizer)),
        tokenizer=tokenizer,
        text_encoder_2=tiny_t5(32),
        tokenizer_2=t5_tokenizer(),
    )
    pipe.default_sample_size = 16
    return at_rest(pipe)


STAR = Thing("star", "red", "big", (3, 20, 31, 47))
KEY = Thing("key", "blue", "big", (34, 18, 62, 46))


def picture(*things: Thing) -> Image.Image:
    """A scene of the lab on white."""
    return Image.fromarray(render(Scene("white", things)))


def moving(seed: int = 0, frames: int = 8) -> MovingScene:
    return moving_scene(np.random.default_rng(seed), frames)


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
SEES = SMALL | {"image_size": 32, "patch_size": 8}


def tiny_blip() -> Captioner:
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "captioner")
    text = SMALL | {"vocab_size": len(tokenizer), "encoder_hidden_size": 32, "max_position_embeddings": 64}
    text |= {"bos_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    model = BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=SEES)).eval()
    return Captioner(model, tokenizer, 32, [0.5] * 3, [0.5] * 3)


def _blip2(tokenizer, text) -> Captioner:
    torch.manual_seed(0)
    qformer = SMALL | {"encoder_hidden_size": 32, "vocab_size": 64}
    config = Blip2Config(vision_config=SEES, qformer_config=qformer, text_config=text, num_query_tokens=4)
    config.image_token_index = config.image_token_id = len(tokenizer)
    return Captioner(Blip2ForConditionalGeneration(config).eval(), tokenizer, 32, [0.5] * 3, [0.5] * 3)


def tiny_blip2_t5() -> Captioner:
    """Its language model is an encoder-decoder."""
    tokenizer = t5_tokenizer()
    text = {"model_type": "t5", "vocab_size": len(tokenizer) + 1, "d_model": 32, "d_kv": 8, "d_ff": 64}
    text |= {"num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return _blip2(tokenizer, text)


def tiny_blip2() -> Captioner:
    tokenizer = tiny_tokenizer()
    text = {"model_type": "opt", "vocab_size": len(tokenizer) + 1, "hidden_size": 32, "ffn_dim": 64}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
    text |= {"word_embed_proj_dim": 32, "pad_token_id": 1}
    text |= {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return _blip2(tokenizer, text)


def tiny_florence2() -> Captioner:
    """A Florence-2, whose picture and task go through an encoder."""
    torch.manual_seed(0)
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<image>"]
    vocab, merges = byte_level("a red blue star key two gray on keys What does the image describe".split(), special)
    tokenizer = RobertaTokenizer(vocab=vocab, merges=merges, extra_special_tokens={"image_token": "<image>"})
    tokenizer.model_max_length = 128
    marks = {"bos_token_id": "<s>", "pad_token_id": "<pad>", "eos_token_id": "</s>", "decoder_start_token_id": "</s>"}
    text = {"model_type": "bart", "vocab_size": len(tokenizer), "d_model": 32, "max_position_embeddings": 128}
    text |= {f"{half}_{name}": 2 for half in ("encoder", "decoder") for name in ("layers", "attention_heads")}
    text |= {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
    text |= {name: tokenizer.convert_tokens_to_ids(token) for name, token in marks.items()}
    vision = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1]}
    vision |= {"patch_prenorm": [False, True], "embed_dim": [16, 16], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision |= {"window_size": 4, "projection_dim": 32, "drop_path_rate": 0.0}
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=image)
    model = Florence2ForConditionalGeneration(config).eval()
    return Florence2Captioner(model, tokenizer, 32, [0.5] * 3, [0.5] * 3)


# --- threads ----------------------------------------------------------------------------------------------------------
def is_held(thing):
    """Whether another thread that wants to run this would have to wait for the one that asks."""
    lock, free = state._LOCKS.get(thing), []

    def attempt():
        if lock is None or lock.acquire(blocking=False):
            free.append(lock is None or lock.release() is None)

    other = threading.Thread(target=attempt)
    other.start()
    other.join()
    return not free
