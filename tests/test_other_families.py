"""Families that are not in the zoo: they need a package that is not installed, or their loop cannot be opened."""

from __future__ import annotations

import io

import diffusers
import pytest
import torch
from test_contract import changed, first_keys
from zoo import BETAS, CALL, WORDS, fresh, shared, vae

import accord
from accord.diffusion.families import FAMILIES
from accord.diffusion.opened import Opened
from accord.diffusion.spans import read_texts
from accord.diffusion.tap import attention_layout
from accord.judges.captioners import load_captioner
from accord.types import InputError

PROMPTS = ["a red star and a blue key", "two green moon"]


def generators(count):
    return [torch.Generator().manual_seed(i) for i in range(count)]


def own_config(network):
    return {name: value for name, value in network.config.items() if not name.startswith("_")}


def test_a_network_that_needs_a_line_says_so(monkeypatch):
    """And not that some number of pixels is of no level."""
    monkeypatch.delitem(FAMILIES, "OvisImageTransformer2DModel")
    call = {k: v for k, v in CALL["ovisimage"].items() if k != "guidance_scale"}
    with pytest.raises(InputError, match=r"share the attention of an OvisImageTransformer2DModel.* give it a line in"):
        accord.realign(shared("ovisimage"), PROMPTS[0], captioner=load_captioner(), num_inference_steps=2, call=call)


def test_a_loop_of_other_steps_is_run_and_scored_and_nothing_else():
    """SanaSprint leaves its scheduler's last time out, and decodes what its last step says of the clean picture."""
    sana = fresh("sana")
    config = {**own_config(sana.transformer), "guidance_embeds": True, "qk_norm": "rms_norm_across_heads"}
    parts = {n: p for n, p in sana.components.items() if n not in ("transformer", "scheduler")}
    torch.manual_seed(0)
    network = diffusers.SanaTransformer2DModel(**config).eval().requires_grad_(False)
    pipe = diffusers.SanaSprintPipeline(transformer=network, scheduler=diffusers.SCMScheduler(), **parts)
    call = {k: v for k, v in CALL["sana"].items() if k != "guidance_scale"}
    own = pipe(prompt=PROMPTS, generator=generators(2), output_type="pt", **call).images
    made = accord.generate(pipe, PROMPTS, generator=generators(2), output_type="pt", call=call)
    assert torch.equal(made, own)
    opened = Opened(pipe, 2, **call)
    with pytest.raises(InputError, match="takes other steps than its scheduler's timesteps"):
        opened.rollout(PROMPTS, generators(2))
    with pytest.raises(InputError, match="takes other steps than its scheduler's timesteps"):
        opened.decode(PROMPTS, opened.noise(PROMPTS, generators(2)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ('a red star "ab"', 'a red moon "ab"'),
        ("a red star", "a red moon"),
        ('"ab" and "c", a red star', '"ab" and "c", a red moon'),
    ],
)
def test_words_beside_quoted_ones_are_found_behind_them(one, other):
    """HunyuanImage puts what is quoted, as its second encoder sees it, before all other text."""
    opened = Opened(shared("hunyuanimage"), 2, **CALL["hunyuanimage"])
    layout = attention_layout(opened, [one, "two green moon"])
    keys, others = (first_keys(opened, layout, [text, "two green moon"], seed=0) for text in (one, other))
    differs = changed(keys.key, others.key)[:, keys.text]
    assert not differs[1].any()
    # within the network every word of the prompt is mixed with the one that changed, the quoted ones before are not
    first = next(i for i, span in enumerate(layout.spans[0]) if span is not None)
    assert int(differs[0].int().argmax()) == first and differs[0, first : first + 3].all()
    assert first == (0 if '"' not in one else layout.texts.shown["encoder_attention_mask_2"][0]) and layout.spans[1][0]


@pytest.fixture
def kolors(tmp_path):
    """A tiny one; its text encoder gives states [T,B,D]."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    model, letters = io.BytesIO(), " ".join(map(chr, range(33, 127)))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([letters, *[" ".join(WORDS[i:] + WORDS[:i]) for i in range(len(WORDS))] * 20]),
        model_writer=model,
        vocab_size=150,
        hard_vocab_limit=False,
        character_coverage=1.0,
        minloglevel=2,
    )
    (tmp_path / "tokenizer.model").write_bytes(model.getvalue())
    tokenizer = ChatGLMTokenizer(str(tmp_path / "tokenizer.model"))
    size = {"hidden_size": 32, "ffn_hidden_size": 32, "kv_channels": 16, "num_attention_heads": 2, "seq_length": 64}
    kind = {"multi_query_attention": True, "add_qkv_bias": True, "original_rope": True, "num_hidden_layers": 2}
    encoder = ChatGLMModel(ChatGLMConfig(num_layers=2, padded_vocab_size=400, **size, **kind)).float()
    generator = torch.Generator().manual_seed(0)
    for weight in encoder.parameters():  # they are torch.empty
        weight.data.fill_(1.0) if weight.dim() == 1 else weight.data.normal_(std=0.2, generator=generator)
    unet = diffusers.UNet2DConditionModel(**{**own_config(shared("sdxl").unet), "cross_attention_dim": 32})
    scheduler = diffusers.EulerDiscreteScheduler(steps_offset=1, **BETAS)
    parts = {"vae": vae(), "unet": unet, "scheduler": scheduler, "text_encoder": encoder, "tokenizer": tokenizer}
    pipe = diffusers.KolorsPipeline(**parts)
    for module in (pipe.vae, pipe.unet, pipe.text_encoder):
        module.eval().requires_grad_(False)
    return pipe


def test_kolors(kolors, tmp_path):
    kolors.save_pretrained(tmp_path / "kolors")
    pipe = accord.load(str(tmp_path / "kolors"), "cpu")
    call = {"height": 32, "width": 32, "guidance_scale": 5.0, "max_sequence_length": 32}
    own = pipe(PROMPTS, generator=generators(2), num_inference_steps=2, output_type="pt", **call).images
    opened = Opened(pipe, 2, **call)
    assert torch.equal(opened.decode(PROMPTS, opened.rollout(PROMPTS, generators(2))), own)
    texts = read_texts(opened, PROMPTS)
    for prompt, spans in zip(PROMPTS, texts.spans["encoder_hidden_states"], strict=True):
        found = {i for span in spans if span is not None for i in range(*span)}
        assert {i for i, letter in enumerate(prompt) if letter != " "} <= found
    made = accord.realign(pipe, PROMPTS, captioner=load_captioner(), num_inference_steps=2, call=call)
    assert len(made) == 2 and all(r.alignment_after.overall >= r.alignment_before.overall for r in made)
