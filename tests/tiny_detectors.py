"""Tiny detectors of the real classes with random weights, saved as a hub's folder is."""

import atexit
from functools import cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import torch
from tiny_models import tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Owlv2Config,
    Owlv2ForObjectDetection,
    PreTrainedTokenizerFast,
    SamConfig,
    SamModel,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.mask2former.image_processing_pil_mask2former import Mask2FormerImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from accord.evaluation.geneval_records import CLASSES, RENAMED

COCO = [
    {new: old for old, new in RENAMED.items()}.get(name, name) for name in CLASSES
]  # as the hub's detector has them


def _swin(**more) -> SwinConfig:
    return SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4, **more
    )


@cache
def tiny_mask2former() -> str:
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        backbone_config=_swin(out_features=["stage1", "stage2", "stage3", "stage4"]),
        feature_size=32,
        mask_feature_size=32,
        hidden_dim=32,
        encoder_feedforward_dim=16,
        dim_feedforward=16,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        num_queries=10,
        num_labels=len(COCO),
        id2label=dict(enumerate(COCO)),
        label2id={name: i for i, name in enumerate(COCO)},
    )
    return _saved(
        Mask2FormerForUniversalSegmentation(config),
        Mask2FormerImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96}),
    )


@cache
def tiny_owlv2() -> str:
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    tokenizer.model_max_length = 16
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = tower | ends | {"vocab_size": len(tokenizer), "pad_token_id": 0, "max_position_embeddings": 16}
    config = Owlv2Config(text_config=text, vision_config=tower | {"image_size": 64, "patch_size": 8}, projection_dim=16)
    return _saved(Owlv2ForObjectDetection(config), Owlv2ImageProcessorPil(size={"height": 64, "width": 64}), tokenizer)


def _bert_tokenizer() -> PreTrainedTokenizerFast:
    """One of BERT's kind; the numbers of what separates phrases are fixed in Grounding DINO."""
    vocabulary = {f"[unused{i}]": i for i in range(1, 1040)} | {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102}
    words = "a the red blue green yellow star key moon fish two of and photo".split()
    vocabulary |= {".": 1012, "?": 1029} | {word: 200 + i for i, word in enumerate(words)}
    taken: dict[int, str] = {}
    for word, number in vocabulary.items():
        taken[number] = word
    inner = Tokenizer(models.WordPiece({word: number for number, word in taken.items()}, unk_token="[UNK]"))
    inner.normalizer, inner.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.BertProcessing(("[SEP]", 102), ("[CLS]", 101))
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )


@cache
def tiny_grounding_dino() -> str:
    torch.manual_seed(0)
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = GroundingDinoConfig(
        backbone_config=_swin(out_indices=[2, 3, 4]),
        text_config=BertConfig(vocab_size=1040, max_position_embeddings=64, **text),
        num_queries=12,
        num_feature_levels=3,
        encoder_layers=1,
        encoder_ffn_dim=16,
        encoder_attention_heads=2,
        decoder_layers=2,
        decoder_ffn_dim=16,
        decoder_attention_heads=2,
        d_model=32,
        max_text_len=24,
    )
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 64, "longest_edge": 96})
    return _saved(GroundingDinoForObjectDetection(config), processor, _bert_tokenizer())


@cache
def tiny_sam() -> str:
    torch.manual_seed(0)
    vision = {"hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision |= {
        "image_size": 64,
        "patch_size": 8,
        "window_size": 4,
        "global_attn_indexes": [0],
        "mlp_dim": 32,
        "num_pos_feats": 8,
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SamConfig(
        vision_config=vision,
        prompt_encoder_config=prompt,
        mask_decoder_config=decoder | {"iou_head_depth": 2, "iou_head_hidden_dim": 16},
    )
    side = {"height": 64, "width": 64}
    return _saved(SamModel(config), SamImageProcessorPil(size={"longest_edge": 64}, pad_size=side))


def _saved(*parts) -> str:
    folder = Path(mkdtemp(prefix="accord-tiny-"))
    atexit.register(rmtree, folder, ignore_errors=True)
    for part in parts:
        part.save_pretrained(folder)
    return str(folder)
