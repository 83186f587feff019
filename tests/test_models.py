"""The embedded models: standard form, small, loadable without accord."""

import contextlib
import json
import subprocess
import sys

import pytest
import torch
from conftest import MODELS
from safetensors import safe_open

import accord

PLAIN = """
import sys, torch
from diffusers import StableDiffusionPipeline
from transformers import AutoTokenizer, BlipForConditionalGeneration, CLIPModel
root = sys.argv[1]
pipe = StableDiffusionPipeline.from_pretrained(root + "/pipeline")
pipe.set_progress_bar_config(disable=True)
image = pipe("a red star", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
clip = CLIPModel.from_pretrained(root + "/clip")
blip = BlipForConditionalGeneration.from_pretrained(root + "/captioner")
ids = blip.generate(torch.zeros(1, 3, 64, 64), max_new_tokens=4)
text = AutoTokenizer.from_pretrained(root + "/captioner").decode(ids[0], skip_special_tokens=True)
assert image.size == (64, 64) and text, (image.size, text)
assert not any(m.split(".")[0] == "accord" for m in sys.modules)
"""


def test_plain_libraries_load_the_folders():
    done = subprocess.run([sys.executable, "-c", PLAIN, str(MODELS)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_weights_are_safetensors_in_half_precision_and_40_mb_at_most():
    files = [f for f in MODELS.rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 40_000_000
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5")]
    weights = [f for f in files if f.suffix == ".safetensors"]
    assert len(weights) == 7  # unet, vae, text encoder, adapter, clip, captioner, inverter
    for file in weights:
        with safe_open(file, "pt") as tensors:
            kinds = {tensors.get_slice(k).get_dtype() for k in tensors.keys()}  # noqa: SIM118
        assert kinds <= {"F16", "I64"}, (file, kinds)


def test_the_embedded_adapter_changes_pictures_and_takes_the_pipelines_type():
    pipe, plain = accord.load(lora="lab"), accord.load()
    make = lambda p: accord.generate(p, "a moon and a plane", num_inference_steps=4, output_type="latent")  # noqa: E731
    assert not torch.allclose(make(pipe), make(plain), atol=1e-2)
    assert {p.dtype for p in pipe.unet.parameters()} == {torch.float32}


def test_no_path_of_the_training_machine_is_saved():
    for file in MODELS.rglob("*.json"):
        text = file.read_text(encoding="utf8")
        assert json.loads(text)
        assert '"_name_or_path": "/' not in text, file


@pytest.mark.slow
def test_vae_round_trip_is_read_exactly():
    import numpy as np
    from diffusers import AutoencoderKL

    from accord_lab.recipes.vae import to_tensor
    from accord_lab.scenes.read import read, same_content
    from accord_lab.scenes.render import render
    from accord_lab.scenes.scene import sample_scene

    vae = AutoencoderKL.from_pretrained(MODELS / "pipeline" / "vae", dtype=torch.float32).eval()
    rng = np.random.default_rng(99)
    scenes = [sample_scene(rng, allow_held_out=True) for _ in range(1000)]
    right = 0
    for start in range(0, len(scenes), 100):
        part = scenes[start : start + 100]
        with torch.no_grad():
            latents = vae.encode(to_tensor(np.stack([render(s) for s in part]))).latent_dist.mode()
            decoded = vae.decode(latents).sample.clamp(-1, 1)
        images = ((decoded + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        right += sum(same_content(s, read(i)) for s, i in zip(part, images, strict=True))
    assert right >= 0.99 * len(scenes)


@pytest.mark.slow
def test_captioner_says_exactly_what_held_out_renders_show():
    import numpy as np
    from PIL import Image

    import accord
    from accord.data.images import to_tensor
    from accord.prompts.phrases import phrases_of
    from accord_lab.scenes.ask import ask_of, check
    from accord_lab.scenes.render import render
    from accord_lab.scenes.scene import sample_scene

    captioner = accord.load_captioner()
    rng = np.random.default_rng(123)
    scenes = [sample_scene(rng) for _ in range(1000)]
    images = torch.cat([to_tensor(Image.fromarray(render(s))) for s in scenes])
    captions = [c for start in range(0, 1000, 100) for c in captioner.caption(images[start : start + 100])]
    right = 0
    for scene, text in zip(scenes, captions, strict=True):
        with contextlib.suppress(accord.InputError):
            right += check(scene, ask_of(text)).right
    assert right >= 0.95 * len(scenes)
    assert (
        np.mean([any(w.kind == "color" for w in phrases_of(text).words) for text in captions]) >= 0.9
    )  # says what it sees
