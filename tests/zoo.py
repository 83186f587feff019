"""Tiny pipelines of the real classes of diffusers: 23 families, random weights, tokenizers that are made here.

    pipe = ZOO["qwenimage"]()
    pipe(prompt="a red star", **CALL["qwenimage"])

Nothing is downloaded. Building one takes 0.05 to 0.6 s, two steps as much. Weights come from a seed of their own and
leave torch's as it is. The networks have all kinds of layers of the real ones, but one or two of each.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Callable, Iterable
from typing import Any

import diffusers as D
import torch
import transformers as T
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from accord.embedded import FOLDER as MODELS

Build = Callable[..., Any]

ZOO: dict[str, Build] = {}  # name -> builds a pipeline; takes the seed of its weights
CALL: dict[str, dict[str, Any]] = {}  # name -> what its call is given: small sizes, guidance, length of texts

WORDS = "a red blue green star key moon and the of to left on right two".split()
# the words of the templates that pipelines put prompts into: Qwen-Image cuts off 34 tokens, as many as the real
# tokenizer makes of its template, so here too each word must be one
TEMPLATES = (
    "system user assistant Describe the image by detailing the color shape size texture quantity text spatial "
    "relationships of the objects and background You are an assistant designed to generate superior images with the "
    "degree of image-text alignment based on textual prompts or user prompts Prompt Start in detail key features"
).split()


def family(name: str, **call: Any) -> Callable[[Callable[[], Any]], Build]:
    """Puts a builder into the zoo, with its call's arguments."""

    def put(make: Callable[[], Any]) -> Build:
        @functools.wraps(make)
        def build(seed: int = 0) -> Any:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                return at_rest(make())

        ZOO[name], CALL[name] = build, call
        return build

    return put


@functools.cache
def shared(name: str) -> Any:
    """One build for all tests of a session; for those that leave its weights as they are."""
    return ZOO[name]()


def fresh(name: str) -> Any:
    """A copy of the shared build, for a test that changes its weights or its parts."""
    return copy.deepcopy(shared(name))


def at_rest(pipe: Any) -> Any:
    """As a pipeline is that was loaded: no dropout, nothing to train; what is left uninitialised has values."""
    for module in pipe.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval().requires_grad_(False)
            for name, weight in module.named_parameters():
                if name.endswith("pad_token"):  # Z-Image's are torch.empty
                    weight.normal_()
    pipe.set_progress_bar_config(disable=True)
    return pipe


# tokenizers ---------------------------------------------------------------------------------------------------------
QWEN_SPECIAL = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|> <think> </think>"
).split()
QWEN_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.content is string %}{{ m.content }}{% else %}{% for c in m.content %}{{ c.text }}{% endfor %}{% endif %}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
Merges = list[tuple[str, str]]


def trained_bpe(texts: Iterable[str], alphabet: Iterable[str] = (), bytes_of: bool = False) -> Tokenizer:
    """A BPE under which each of the texts is one token; over bytes, or over characters."""
    raw = Tokenizer(models.BPE())
    if bytes_of:
        raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=10_000, min_frequency=1, initial_alphabet=sorted(alphabet), show_progress=False),
    )
    return raw


def vocabulary(raw: Tokenizer) -> tuple[dict[str, int], Merges]:
    model = json.loads(raw.to_str())["model"]
    return model["vocab"], [(left, right) for left, right in model["merges"]]


def byte_level(words: Iterable[str], special: Iterable[str]) -> tuple[dict[str, int], Merges]:
    """Vocabulary and merges under which each word, with a space before it and without, is one token."""
    texts = [text for word in words for text in (word, " " + word)]
    vocab, merges = vocabulary(trained_bpe(texts, pre_tokenizers.ByteLevel.alphabet(), bytes_of=True))
    for token in special:
        vocab[token] = len(vocab)
    return vocab, merges


def qwen_tokenizer() -> Any:
    vocab, merges = byte_level([*WORDS, *TEMPLATES], QWEN_SPECIAL)
    tokenizer = T.Qwen2Tokenizer(
        vocab=vocab, merges=merges, extra_special_tokens=QWEN_SPECIAL[1:], model_max_length=1024
    )
    tokenizer.chat_template = QWEN_TEMPLATE
    return tokenizer


def sentencepiece(kind: Any, special: str) -> Any:
    """Gemma's and Llama's: BPE over characters with ▁ for a space, and bytes for what is not known."""
    pieces = [*special.split(), *(f"<0x{i:02X}>" for i in range(256)), "▁", *map(chr, range(33, 127)), "\n"]
    texts = [text for word in [*WORDS, *TEMPLATES] for text in (word, "▁" + word)]
    learnt, merges = vocabulary(trained_bpe(texts))
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*pieces, *learnt]))}
    tokenizer = kind(vocab=vocab, merges=merges)
    tokenizer.model_max_length = 512
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "</s>"
    return tokenizer


def gemma_tokenizer() -> Any:
    return sentencepiece(T.GemmaTokenizer, "<pad> <eos> <bos> <unk> <mask>")


def llama_tokenizer() -> Any:
    return sentencepiece(T.LlamaTokenizer, "<unk> <s> </s>")


def t5_tokenizer() -> Any:
    pieces = [(token, 0.0) for token in ("<pad>", "</s>", "<unk>")]
    pieces += [("▁" + word, -1.0) for word in WORDS]
    pieces += [("▁", -3.0), *((chr(i), -5.0) for i in range(33, 127))]
    return T.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=512)


def clip_tokenizer() -> Any:
    """The lab's, with Stable Diffusion's 77 tokens."""
    tokenizer = T.CLIPTokenizer.from_pretrained(MODELS / "clip")
    tokenizer.model_max_length = 77
    return tokenizer


def glm_tokenizer() -> Any:
    """Two tokens before each text, padding on the left."""
    vocab, merges = byte_level(WORDS, ("<|endoftext|>", "[gMASK]", "<sop>"))
    raw = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = [(token, vocab[token]) for token in ("[gMASK]", "<sop>")]
    raw.post_processor = processors.TemplateProcessing("[gMASK] <sop> $A", special_tokens=special)
    end = "<|endoftext|>"
    return T.PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token=end, eos_token=end, padding_side="left", model_max_length=1024
    )


# text encoders ------------------------------------------------------------------------------------------------------
def small(**more: Any) -> dict[str, Any]:
    """What most configurations of language models share."""
    return {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2} | more


SMALL_VISION = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2}


def clip_text(tokenizer: Any, cls: Any = T.CLIPTextModelWithProjection) -> Any:
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = small(hidden_size=32, intermediate_size=64, num_attention_heads=4, projection_dim=32)
    return cls(T.CLIPTextConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **config, **special))


def t5(tokenizer: Any, width: int = 32) -> Any:
    size = {"d_model": width, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    return T.T5EncoderModel(T.T5Config(vocab_size=max(len(tokenizer), 256), **size))


def umt5(tokenizer: Any) -> Any:
    size = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4}
    return T.UMT5EncoderModel(T.UMT5Config(vocab_size=max(len(tokenizer), 256), **size))


def gemma2(tokenizer: Any) -> Any:
    size = small(num_hidden_layers=2, num_key_value_heads=2, head_dim=8, sliding_window=64)
    return T.Gemma2Model(T.Gemma2Config(vocab_size=len(tokenizer), **size))


def llama(tokenizer: Any, cls: Any) -> Any:
    return cls(T.LlamaConfig(vocab_size=len(tokenizer), **small()))


def qwen3(tokenizer: Any, cls: Any = T.Qwen3Model) -> Any:
    size = small(num_key_value_heads=2, head_dim=8, max_position_embeddings=1024)
    return cls(T.Qwen3Config(vocab_size=len(tokenizer), **size))


def qwen25vl(tokenizer: Any, width: int = 16) -> Any:
    rope = {"mrope_section": [width // 16, width // 16, width // 8], "rope_type": "default", "type": "default"}
    text = small(hidden_size=width, num_key_value_heads=2, rope_scaling=rope, rope_theta=1e6)
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>"}
    names["vision_end"] = "<|vision_end|>"
    tokens = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    config = T.Qwen2_5_VLConfig(
        text_config=text | {"vocab_size": len(tokenizer)},
        vision_config=SMALL_VISION | {"out_hidden_size": width},
        hidden_size=width,
        vocab_size=len(tokenizer),
        **tokens,
    )
    return T.Qwen2_5_VLForConditionalGeneration(config)


def qwen3vl(tokenizer: Any) -> Any:
    text = small(num_hidden_layers=2, num_key_value_heads=2, head_dim=8, vocab_size=len(tokenizer))
    vision = SMALL_VISION | {"out_hidden_size": 16}
    return T.Qwen3VLModel(T.Qwen3VLConfig(text_config=text, vision_config=vision, vocab_size=len(tokenizer)))


def mistral3(tokenizer: Any) -> Any:
    text = small(intermediate_size=32, max_position_embeddings=512, num_key_value_heads=1, sliding_window=None)
    vision = small(num_hidden_layers=1, image_size=28, patch_size=14, num_channels=3)
    config = T.Mistral3Config(
        text_config=text | {"model_type": "mistral", "vocab_size": len(tokenizer)},
        vision_config=vision | {"model_type": "pixtral"},
        image_token_index=1,
    )
    return T.Mistral3ForConditionalGeneration(config)


def glm(tokenizer: Any) -> Any:
    size = small(hidden_size=32, intermediate_size=8, num_attention_heads=4, num_key_value_heads=2, head_dim=8)
    return T.GlmModel(T.GlmConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **size))


# VAEs and schedulers ------------------------------------------------------------------------------------------------
BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
LATENT_NORM = {"latents_mean": [0.1] * 4, "latents_std": [1.2] * 4}


def vae_config(levels: int = 2) -> dict[str, Any]:
    widths = (8, 16) if levels == 2 else (8,) * levels
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * levels, "up_block_types": ("UpDecoderBlock2D",) * levels}
    return blocks | {"block_out_channels": widths, "norm_num_groups": 4, "layers_per_block": 1, "sample_size": 32}


def vae(shift: float | None = None, levels: int = 2) -> Any:
    return D.AutoencoderKL(latent_channels=4, shift_factor=shift, **vae_config(levels))


def vae_flux2() -> Any:
    return D.AutoencoderKLFlux2(latent_channels=4, **vae_config())


def vae_qwen() -> Any:
    size = {"base_dim": 8, "z_dim": 4, "dim_mult": [1, 1, 1], "num_res_blocks": 1}
    return D.AutoencoderKLQwenImage(temperal_downsample=[False, True], **size, **LATENT_NORM)


def flow(**more: Any) -> Any:
    return D.FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | more))


def dynamic_flow(**more: Any) -> Any:
    """Flow matching whose shift depends on the size."""
    return D.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **more)


def heads(**more: Any) -> dict[str, Any]:
    """What most transformers share: two heads of 16 channels."""
    return {"num_attention_heads": 2, "attention_head_dim": 16} | more


# pictures -----------------------------------------------------------------------------------------------------------
@family("sd1", height=32, width=32, guidance_scale=5.0)
def sd1() -> Any:
    tokenizer = clip_tokenizer()
    unet = D.UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(32, 64),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=2,
        norm_num_groups=8,
    )
    return D.StableDiffusionPipeline(
        vae=vae(),
        text_encoder=clip_text(tokenizer, T.CLIPTextModel),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=D.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **BETAS),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


@family("sdxl", height=32, width=32, guidance_scale=5.0)
def sdxl() -> Any:
    tokenizer = clip_tokenizer()
    unet = D.UNet2DConditionModel(
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
    return D.StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=clip_text(tokenizer, T.CLIPTextModel),
        text_encoder_2=clip_text(tokenizer),
        tokenizer=tokenizer,
        tokenizer_2=clip_tokenizer(),
        unet=unet,
        scheduler=D.EulerDiscreteScheduler(steps_offset=1, **BETAS),
        add_watermarker=False,
    )


@family("sd35", height=32, width=32, guidance_scale=5.0, max_sequence_length=32)
def sd35() -> Any:
    tokenizer, tokenizer_3 = clip_tokenizer(), t5_tokenizer()
    transformer = D.SD3Transformer2DModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        caption_projection_dim=32,
        joint_attention_dim=64,
        pooled_projection_dim=64,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
        dual_attention_layers=(0,),
        **heads(),
    )
    return D.StableDiffusion3Pipeline(
        transformer=transformer,
        scheduler=flow(),
        vae=vae(shift=0.1),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(tokenizer_3, 64),
        tokenizer_3=tokenizer_3,
    )


@family("flux", height=32, width=32, guidance_scale=3.5, max_sequence_length=32)
def flux() -> Any:
    tokenizer, tokenizer_2 = clip_tokenizer(), t5_tokenizer()
    transformer = D.FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=True,
        **heads(),
    )
    pipe = D.FluxPipeline(
        transformer=transformer,
        scheduler=dynamic_flow(),
        vae=vae(shift=0.1),
        text_encoder=clip_text(tokenizer, T.CLIPTextModel),
        tokenizer=tokenizer,
        text_encoder_2=t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
    )
    pipe.default_sample_size = 16
    return pipe


def flux2_transformer(guidance_embeds: bool) -> Any:
    return D.Flux2Transformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=48,
        timestep_guidance_channels=256,
        axes_dims_rope=[4, 4, 4, 4],
        guidance_embeds=guidance_embeds,
        **heads(),
    )


@family(
    "flux2klein", height=32, width=32, guidance_scale=4.0, max_sequence_length=64, text_encoder_out_layers=(1, 2, 3)
)
def flux2klein() -> Any:
    tokenizer = qwen_tokenizer()
    return D.Flux2KleinPipeline(
        scheduler=dynamic_flow(),
        text_encoder=qwen3(tokenizer, T.Qwen3ForCausalLM),
        tokenizer=tokenizer,
        transformer=flux2_transformer(guidance_embeds=False),
        vae=vae_flux2(),
    )


@family("flux2dev", height=32, width=32, guidance_scale=4.0, max_sequence_length=128, text_encoder_out_layers=(1, 2, 3))
def flux2dev() -> Any:
    """With Qwen's tokenizer in place of Mistral's processor."""
    tokenizer = qwen_tokenizer()
    pipe = D.Flux2Pipeline(
        scheduler=dynamic_flow(),
        text_encoder=mistral3(tokenizer),
        tokenizer=tokenizer,
        transformer=flux2_transformer(guidance_embeds=True),
        vae=vae_flux2(),
    )
    pipe.system_message = "You are an assistant"  # its own is some 50 tokens
    return pipe


@family("qwenimage", height=64, width=64, true_cfg_scale=4.0, negative_prompt=" ", max_sequence_length=64)
def qwenimage() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = D.QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=16,
        out_channels=4,
        num_layers=2,
        joint_attention_dim=16,
        guidance_embeds=False,
        axes_dims_rope=(8, 4, 4),
        **heads(),
    )
    return D.QwenImagePipeline(
        transformer=transformer, vae=vae_qwen(), scheduler=flow(), text_encoder=qwen25vl(tokenizer), tokenizer=tokenizer
    )


@family("zimage", height=32, width=32, guidance_scale=4.0, max_sequence_length=64)
def zimage() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = D.ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=4,
        dim=32,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=16,
        axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )
    return D.ZImagePipeline(
        transformer=transformer,
        vae=vae(shift=0.1),
        scheduler=flow(),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
    )


@family(
    "sana",
    height=32,
    width=32,
    guidance_scale=4.5,
    max_sequence_length=32,
    use_resolution_binning=False,
    complex_human_instruction=None,
)
def sana() -> Any:
    tokenizer = gemma_tokenizer()
    transformer = D.SanaTransformer2DModel(
        patch_size=1,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=8,
        num_cross_attention_heads=2,
        cross_attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=16,
        sample_size=32,
    )
    coder: dict[str, Any] = {}
    for half in ("encoder", "decoder"):
        coder[f"{half}_block_types"] = ("ResBlock", "EfficientViTBlock")
        coder[f"{half}_block_out_channels"] = (8, 8)
        coder[f"{half}_qkv_multiscales"] = ((), (5,))
        coder[f"{half}_layers_per_block"] = (1, 1)
    autoencoder = D.AutoencoderDC(
        in_channels=3,
        latent_channels=4,
        attention_head_dim=2,
        downsample_block_type="conv",
        upsample_block_type="interpolate",
        decoder_norm_types="rms_norm",
        decoder_act_fns="silu",
        scaling_factor=0.41407,
        **coder,
    )
    return D.SanaPipeline(
        transformer=transformer, vae=autoencoder, scheduler=flow(), text_encoder=gemma2(tokenizer), tokenizer=tokenizer
    )


@family("pixart", height=32, width=32, guidance_scale=4.5, max_sequence_length=32, use_resolution_binning=False)
def pixart() -> Any:
    tokenizer = t5_tokenizer()
    transformer = D.PixArtTransformer2DModel(
        sample_size=16,
        num_layers=2,
        patch_size=2,
        attention_head_dim=8,
        num_attention_heads=2,
        caption_channels=32,
        in_channels=4,
        cross_attention_dim=16,
        out_channels=8,
        attention_bias=True,
        activation_fn="gelu-approximate",
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        norm_eps=1e-6,
    )
    return D.PixArtSigmaPipeline(
        transformer=transformer,
        vae=vae(),
        scheduler=D.DDIMScheduler(clip_sample=False),
        text_encoder=t5(tokenizer),
        tokenizer=tokenizer,
    )


@family("chroma", height=32, width=32, guidance_scale=4.0, max_sequence_length=32)
def chroma() -> Any:
    tokenizer = t5_tokenizer()
    transformer = D.ChromaTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=32,
        axes_dims_rope=[4, 4, 8],
        approximator_hidden_dim=32,
        approximator_layers=1,
        approximator_num_channels=16,
        **heads(),
    )
    pipe = D.ChromaPipeline(
        scheduler=dynamic_flow(),
        text_encoder=t5(tokenizer),
        tokenizer=tokenizer,
        transformer=transformer,
        vae=vae(shift=0.1),
    )
    pipe.default_sample_size = 16
    return pipe


@family("lumina2", height=128, width=128, guidance_scale=4.0, max_sequence_length=112)
def lumina2() -> Any:
    tokenizer = gemma_tokenizer()
    transformer = D.Lumina2Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        hidden_size=32,
        num_layers=2,
        num_refiner_layers=1,
        num_attention_heads=2,
        num_kv_heads=1,
        multiple_of=16,
        axes_dim_rope=[8, 4, 4],
        axes_lens=[300, 32, 32],
        cap_feat_dim=16,
    )
    return D.Lumina2Pipeline(
        transformer=transformer,
        vae=vae(shift=0.1, levels=4),
        scheduler=flow(),
        text_encoder=gemma2(tokenizer),
        tokenizer=tokenizer,
    )


@family("auraflow", height=32, width=32, guidance_scale=3.5, max_sequence_length=32)
def auraflow() -> Any:
    tokenizer = t5_tokenizer()
    transformer = D.AuraFlowTransformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_mmdit_layers=1,
        num_single_dit_layers=1,
        joint_attention_dim=32,
        caption_projection_dim=32,
        pos_embed_max_size=64,
        **heads(),
    )
    return D.AuraFlowPipeline(
        scheduler=flow(), text_encoder=umt5(tokenizer), tokenizer=tokenizer, transformer=transformer, vae=vae()
    )


@family("cogview4", height=32, width=32, guidance_scale=3.5, max_sequence_length=32)
def cogview4() -> Any:
    tokenizer = glm_tokenizer()
    transformer = D.CogView4Transformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        text_embed_dim=32,
        time_embed_dim=8,
        condition_dim=4,
        rope_axes_dim=(16, 16),
        **heads(),
    )
    shift = {"base_shift": 0.25, "max_shift": 0.75, "base_image_seq_len": 256, "time_shift_type": "linear"}
    return D.CogView4Pipeline(
        tokenizer=tokenizer,
        text_encoder=glm(tokenizer),
        vae=vae(),
        transformer=transformer,
        scheduler=dynamic_flow(**shift),
    )


@family("hunyuanimage", height=32, width=32)
def hunyuanimage() -> Any:
    """Its guidance is an object of the pipeline, no argument of the call."""
    tokenizer, tokenizer_2 = qwen_tokenizer(), T.ByT5Tokenizer()
    transformer = D.HunyuanImageTransformer2DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=(1, 1),
        guidance_embeds=False,
        text_embed_dim=32,
        text_embed_2_dim=32,
        rope_axes_dim=(8, 8),
        **heads(),
    )
    autoencoder = D.AutoencoderKLHunyuanImage(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(32, 64),
        layers_per_block=1,
        scaling_factor=0.476986,
        spatial_compression_ratio=2,
        sample_size=64,
    )
    pipe = D.HunyuanImagePipeline(
        scheduler=flow(),
        vae=autoencoder,
        text_encoder=qwen25vl(tokenizer, 32),
        tokenizer=tokenizer,
        text_encoder_2=t5(tokenizer_2),
        tokenizer_2=tokenizer_2,
        transformer=transformer,
        guider=D.ClassifierFreeGuidance(guidance_scale=3.5),
        ocr_guider=D.ClassifierFreeGuidance(guidance_scale=3.5),
    )
    pipe.tokenizer_max_length, pipe.tokenizer_2_max_length = 64, 16  # its own are 1000 and 128
    return pipe


@family("hidream", height=32, width=32, guidance_scale=5.0, max_sequence_length=32)
def hidream() -> Any:
    tokenizer, tokenizer_3, tokenizer_4 = clip_tokenizer(), t5_tokenizer(), llama_tokenizer()
    transformer = D.HiDreamImageTransformer2DModel(
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        caption_channels=[32, 16],
        text_emb_dim=64,
        num_routed_experts=2,
        num_activated_experts=1,
        axes_dims_rope=(8, 4, 4),
        max_resolution=(32, 32),
        llama_layers=(0, 1),
        **heads(),
    )
    pipe = D.HiDreamImagePipeline(
        scheduler=flow(),
        vae=vae(shift=0.1),
        text_encoder=clip_text(tokenizer),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(tokenizer_3),
        tokenizer_3=tokenizer_3,
        text_encoder_4=llama(tokenizer_4, T.LlamaForCausalLM),
        tokenizer_4=tokenizer_4,
        transformer=transformer,
    )
    pipe.default_sample_size = 16  # it scales every size to this area
    return pipe


@family("krea2", height=64, width=64, guidance_scale=4.0, max_sequence_length=64)
def krea2() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = D.Krea2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_key_value_heads=1,
        intermediate_size=32,
        timestep_embed_dim=8,
        text_hidden_dim=16,
        num_text_layers=3,
        text_num_attention_heads=2,
        text_num_key_value_heads=1,
        text_intermediate_size=16,
        num_layerwise_text_blocks=1,
        num_refiner_text_blocks=1,
        axes_dims_rope=(8, 4, 4),
        rope_theta=1000.0,
        **heads(),
    )
    return D.Krea2Pipeline(
        transformer=transformer,
        vae=vae_qwen(),
        scheduler=dynamic_flow(),
        text_encoder=qwen3vl(tokenizer),
        tokenizer=tokenizer,
        text_encoder_select_layers=(0, 1, 2),
    )


@family("ovisimage", height=32, width=32, guidance_scale=4.0, max_sequence_length=32)
def ovisimage() -> Any:
    tokenizer = qwen_tokenizer()
    transformer = D.OvisImageTransformer2DModel(
        in_channels=16,
        out_channels=16,
        num_layers=1,
        num_single_layers=1,
        joint_attention_dim=16,
        axes_dims_rope=(8, 4, 4),
        **heads(),
    )
    pipe = D.OvisImagePipeline(
        transformer=transformer,
        vae=vae(shift=0.1),
        scheduler=dynamic_flow(),
        text_encoder=qwen3(tokenizer),
        tokenizer=tokenizer,
    )
    pipe.default_sample_size = 16
    return pipe


# videos -------------------------------------------------------------------------------------------------------------
def wan_transformer() -> Any:
    return D.WanTransformer3DModel(
        patch_size=(1, 2, 2),
        in_channels=4,
        out_channels=4,
        text_dim=32,
        freq_dim=256,
        ffn_dim=32,
        num_layers=2,
        cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
        rope_max_seq_len=32,
        **heads(),
    )


def wan_pipeline(scheduler: Any, **more: Any) -> Any:
    tokenizer = t5_tokenizer()
    autoencoder = D.AutoencoderKLWan(
        base_dim=3,
        z_dim=4,
        dim_mult=[1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True],
        scale_factor_spatial=4,
        scale_factor_temporal=2,
        **LATENT_NORM,
    )
    return D.WanPipeline(
        transformer=wan_transformer(),
        vae=autoencoder,
        scheduler=scheduler,
        text_encoder=umt5(tokenizer),
        tokenizer=tokenizer,
        **more,
    )


@family("wan", height=32, width=32, num_frames=5, guidance_scale=5.0, max_sequence_length=32)
def wan() -> Any:
    return wan_pipeline(flow())


@family("wan22", height=32, width=32, num_frames=5, guidance_scale=4.0, guidance_scale_2=3.0, max_sequence_length=32)
def wan22() -> Any:
    """Wan 2.2's two experts: `transformer` at high noise, `transformer_2` below the boundary."""
    scheduler = D.UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    return wan_pipeline(scheduler, transformer_2=wan_transformer(), boundary_ratio=0.875)


@family("ltx", height=32, width=32, num_frames=9, guidance_scale=3.0, max_sequence_length=32)
def ltx() -> Any:
    tokenizer = t5_tokenizer()
    transformer = D.LTXVideoTransformer3DModel(
        in_channels=8,
        out_channels=8,
        patch_size=1,
        patch_size_t=1,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
        **heads(),
    )
    coder: dict[str, Any] = {}
    for half in ("", "decoder_"):
        coder[f"{half}block_out_channels"] = (8,) * 4
        coder[f"{half}layers_per_block"] = (1,) * 5
        coder[f"{half}spatio_temporal_scaling"] = (True, True, False, False)
    autoencoder = D.AutoencoderKLLTXVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=8,
        decoder_inject_noise=(False,) * 5,
        upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4,
        timestep_conditioning=False,
        patch_size=1,
        patch_size_t=1,
        encoder_causal=True,
        decoder_causal=False,
        **coder,
    )
    return D.LTXPipeline(
        transformer=transformer, vae=autoencoder, scheduler=flow(), text_encoder=t5(tokenizer), tokenizer=tokenizer
    )


@family(
    "hunyuanvideo",
    height=32,
    width=32,
    num_frames=5,
    guidance_scale=4.5,
    max_sequence_length=32,
    prompt_template={"template": "{}", "crop_start": 0},
)
def hunyuanvideo() -> Any:
    tokenizer, tokenizer_2 = llama_tokenizer(), clip_tokenizer()
    transformer = D.HunyuanVideoTransformer3DModel(
        in_channels=4,
        out_channels=4,
        num_layers=1,
        num_single_layers=1,
        num_refiner_layers=1,
        patch_size=1,
        patch_size_t=1,
        guidance_embeds=True,
        text_embed_dim=16,
        pooled_projection_dim=32,
        rope_axes_dim=(8, 4, 4),
        **heads(),
    )
    autoencoder = D.AutoencoderKLHunyuanVideo(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        layers_per_block=1,
        act_fn="silu",
        norm_num_groups=4,
        scaling_factor=0.476986,
        spatial_compression_ratio=8,
        temporal_compression_ratio=4,
        mid_block_add_attention=True,
    )
    return D.HunyuanVideoPipeline(
        transformer=transformer,
        vae=autoencoder,
        scheduler=flow(),
        text_encoder=llama(tokenizer, T.LlamaModel),
        tokenizer=tokenizer,
        text_encoder_2=clip_text(tokenizer_2, T.CLIPTextModel),
        tokenizer_2=tokenizer_2,
    )


@family("cogvideox", height=32, width=32, num_frames=9, guidance_scale=6.0, max_sequence_length=32)
def cogvideox() -> Any:
    tokenizer = t5_tokenizer()
    transformer = D.CogVideoXTransformer3DModel(
        in_channels=4,
        out_channels=4,
        time_embed_dim=2,
        text_embed_dim=32,
        num_layers=2,
        sample_width=4,
        sample_height=4,
        sample_frames=9,
        patch_size=2,
        temporal_compression_ratio=4,
        max_text_seq_length=32,
        use_rotary_positional_embeddings=True,
        **heads(),
    )
    autoencoder = D.AutoencoderKLCogVideoX(
        in_channels=3,
        out_channels=3,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8,) * 4,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=2,
        temporal_compression_ratio=4,
    )
    return D.CogVideoXPipeline(
        transformer=transformer,
        vae=autoencoder,
        scheduler=D.CogVideoXDDIMScheduler(),
        text_encoder=t5(tokenizer),
        tokenizer=tokenizer,
    )
