"""Tiny chat models of the real classes, with the real processors and tokenizers that are made here.

Weights are random and larger than usual, so that what a model is shown makes a difference to what it answers.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import torch
import transformers as T
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from zoo import byte_level, qwen25vl, sentencepiece

from accord.judges.chat import ChatJudge
from accord.judges.processors import of_pictures

WORDS = (
    "Yes yes No no Is there a red blue green star key in the picture Answer or one word How many are zero two three"
    " What color Does this figure show Please USER ASSISTANT user assistant"
).split()


def _template(image: str, end: str = "<|im_end|>") -> str:
    return (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}"
        f"{{% if c.type == 'image' %}}{image}{{% else %}}{{{{ c.text }}}}{{% endif %}}{{% endfor %}}{end}\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )


def qwen_like_tokenizer(*special: str, **named: str) -> Any:
    """Byte-level, as Qwen's and SmolLM's; each of WORDS is one token, with a space before it and without."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *special]
    vocab, merges = byte_level(WORDS, tokens)
    return T.Qwen2Tokenizer(
        vocab=vocab,
        merges=merges,
        eos_token="<|im_end|>",
        extra_special_tokens=named or tokens[1:],
        model_max_length=4096,
    )


def _text(tokenizer: Any, **more: Any) -> dict[str, Any]:
    size = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    special = {name: None for name in ("bos_token_id", "pad_token_id", "eos_token_id")}
    size |= {"num_key_value_heads": 2, "head_dim": 16, "vocab_size": len(tokenizer), "max_position_embeddings": 4096}
    return size | special | more


VISION = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}


def _judge(model: Any, processor: Any, name: str) -> ChatJudge:
    for weight in model.parameters():
        if weight.ndim > 1:
            weight.data.mul_(4)
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.generation_config.pad_token_id = processor.tokenizer.pad_token_id
    return ChatJudge(model.eval().requires_grad_(False), processor, f"tiny {name}")


def _qwen_processor(kind: Any) -> Any:
    tokenizer = qwen_like_tokenizer("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
    pictures = Qwen2VLImageProcessorPil(
        min_pixels=28 * 28 * 2, max_pixels=28 * 28 * 9, patch_size=14 if kind is T.Qwen2_5_VLProcessor else 16
    )
    template = _template("<|vision_start|><|image_pad|><|vision_end|>")
    return of_pictures(kind)(image_processor=pictures, tokenizer=tokenizer, chat_template=template)


def qwen25() -> ChatJudge:
    processor = _qwen_processor(T.Qwen2_5_VLProcessor)
    return _judge(qwen25vl(processor.tokenizer, 32), processor, "Qwen2.5-VL")


def qwen3() -> ChatJudge:
    processor = _qwen_processor(T.Qwen3VLProcessor)
    tokenizer = processor.tokenizer
    names = {"image": "<|image_pad|>", "video": "<|video_pad|>", "vision_start": "<|vision_start|>"}
    names["vision_end"] = "<|vision_end|>"
    tokens = {f"{name}_token_id": tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}
    rope = {"rope_type": "default", "mrope_section": [4, 2, 2], "mrope_interleaved": True, "rope_theta": 1e6}
    vision = {"depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    vision |= {"deepstack_visual_indexes": [0], "patch_size": 16, "num_position_embeddings": 64}
    config = T.Qwen3VLConfig(text_config=_text(tokenizer, rope_parameters=rope), vision_config=vision, **tokens)
    return _judge(T.Qwen3VLForConditionalGeneration(config), processor, "Qwen3-VL")


def idefics3() -> ChatJudge:
    """What SmolVLM is too, but for its video half."""
    cells = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    marks = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>", *cells)
    tokenizer = qwen_like_tokenizer(*marks)
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = T.Idefics3Processor(
        pictures, tokenizer, image_seq_len=4, chat_template=_template("<image>", "<end_of_utterance>")
    )
    text = _text(tokenizer, model_type="llama")
    config = T.Idefics3Config(
        text_config=text,
        vision_config=VISION | {"image_size": 32, "patch_size": 8},
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _judge(T.Idefics3ForConditionalGeneration(config), processor, "Idefics3")


def paligemma() -> ChatJudge:
    """Picture and question see each other: nothing of it can be shared. It has no chat template."""
    tokenizer = sentencepiece(T.GemmaTokenizer, "<pad> <eos> <bos> <unk> <mask> <image>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    pictures = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pictures.image_seq_length = 16
    processor = T.PaliGemmaProcessor(pictures, tokenizer)
    text = _text(tokenizer, model_type="gemma", num_key_value_heads=1)
    config = T.PaliGemmaConfig(
        text_config=text,
        vision_config=VISION | {"model_type": "siglip_vision_model", "image_size": 32, "patch_size": 8},
        projection_dim=32,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _judge(T.PaliGemmaForConditionalGeneration(config), processor, "PaliGemma")


def llava() -> ChatJudge:
    tokenizer = qwen_like_tokenizer("<image>")
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = T.LlavaProcessor(
        pictures,
        tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    config = T.LlavaConfig(
        text_config=_text(tokenizer, model_type="llama"),
        vision_config=VISION | {"model_type": "clip_vision_model", "image_size": 32, "patch_size": 8},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return _judge(T.LlavaForConditionalGeneration(config), processor, "LLaVA")


def internvl() -> ChatJudge:
    names = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}
    names |= {"video_token": "<video>"}
    tokenizer = qwen_like_tokenizer(*names.values(), **names)
    pictures = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=False)
    processor = of_pictures(T.InternVLProcessor)(
        pictures, tokenizer, image_seq_length=4, chat_template=_template("<IMG_CONTEXT>")
    )
    config = T.InternVLConfig(
        text_config=_text(tokenizer, model_type="qwen2"),
        vision_config=VISION | {"image_size": [32, 32], "patch_size": [8, 8]},
        image_seq_length=4,
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
    )
    return _judge(T.InternVLForConditionalGeneration(config), processor, "InternVL")


CHAT = {f.__name__: f for f in (qwen25, qwen3, idefics3, paligemma, llava, internvl)}


@functools.cache
def shared(name: str) -> ChatJudge:
    """One build for all tests of a session, which leave its weights as they are."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CHAT[name]()


def fresh(name: str) -> ChatJudge:
    """A copy whose weights may be changed, and that has not tried out whether it can share."""
    own = shared(name)
    return ChatJudge(copy.deepcopy(own.model), own.processor, own.name)
