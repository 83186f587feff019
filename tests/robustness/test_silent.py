"""What was accepted and ignored, or answered with something else than was asked for."""

import json
import os
import shutil
import socket
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import MODELS, tiny_flux, tiny_pipeline, tiny_sd3, tiny_sdxl
from diffusers import DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler
from safetensors.torch import load_file, save_file
from torch import nn

import accord
from accord.types import InputError


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(images) -> np.ndarray:
    return np.stack([np.asarray(i) for i in images])


# --- generate -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [tiny_pipeline, tiny_sdxl, tiny_flux])
def test_generate_honours_a_generator_as_the_pipeline_does(make):
    pipe, prompts = make(), ["a red star", "a blue key"]
    told = {"num_inference_steps": 2, "guidance_scale": 3.0}
    for own in (generator, lambda: [generator(1), generator(2)]):
        wanted = pixels(pipe(prompts, generator=own(), **told).images)
        assert np.array_equal(pixels(accord.generate(pipe, prompts, generator=own(), **told)), wanted)
    alone = pixels(accord.generate(pipe, prompts, generator=[generator(1), generator(2)], batch_size=1, **told))
    assert np.abs(alone.astype(int) - wanted).max() <= 1  # another batch is summed in another order


def test_generate_without_seeds_is_seed_0():
    pipe = tiny_pipeline()
    assert np.array_equal(
        pixels(accord.generate(pipe, "a star", num_inference_steps=2)),
        pixels(accord.generate(pipe, "a star", 0, num_inference_steps=2)),
    )


@pytest.mark.parametrize(
    ("given", "part"),
    [
        ({"seeds": 1, "generator": torch.Generator()}, "both seeds and a generator"),
        ({"generator": [torch.Generator()] * 3}, "3 generators were given for 1"),
        ({"output_type": "jpg"}, "output_type must be one of"),
        ({"nonsense": 1}, "takes no nonsense"),
        ({"negative_prompt": "a key", "guidance_scale": 1.0}, "negative prompt is not used without guidance"),
        ({"guidance_rescale": 0.7, "guidance_scale": 1.0}, "guidance_rescale is not used without guidance"),
        ({"strength": 0.5}, "takes no strength"),
        ({"eta": 2.0}, "eta must be in"),
        ({"eta": float("nan")}, "eta must be in"),
        ({"guidance_scale": float("nan")}, "guidance_scale must be a finite number"),
        ({"height": 64, "latents": torch.zeros(1, 4, 16, 16)}, "are not those of the latents"),
    ],
)
def test_generate_refuses_what_it_would_not_use(given, part):
    with pytest.raises(InputError, match=part):
        accord.generate(tiny_pipeline(), "a star", **{"num_inference_steps": 2, **given})


@pytest.mark.parametrize("make", [tiny_flux, tiny_sd3])
def test_a_negative_prompt_that_would_do_nothing_is_refused(make):
    with pytest.raises(InputError, match="negative prompt is not used"):
        accord.generate(make(), "a star", negative_prompt="a key", num_inference_steps=1, guidance_scale=1.0)


def test_latents_are_one_for_each_picture():
    """Two for one prompt were taken for a guided batch, and gave two pictures."""
    pipe, told = tiny_pipeline(), {"num_inference_steps": 2, "guidance_scale": 3.0, "output_type": "pt"}
    latents = torch.randn(2, 4, 16, 16, generator=generator())
    with pytest.raises(InputError, match="2 latents were given for 1 prompts"):
        accord.generate(pipe, "a star", latents=latents, **told)
    together, alone = (
        accord.generate(pipe, ["a star", "a key"], latents=latents, batch_size=n, **told) for n in (2, 1)
    )
    assert len(alone) == 2 and torch.allclose(together, alone, atol=1e-4)


def test_eta_is_refused_by_a_scheduler_that_takes_none():
    pipe = tiny_pipeline()
    pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(InputError, match="takes no eta"):
        accord.generate(pipe, "a star", num_inference_steps=2, eta=0.5)


def zero_snr(pipe, kind=DDIMScheduler, **more):
    pipe.scheduler = kind.from_config(
        pipe.scheduler.config,
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        clip_sample=False,
        **more,
    )
    return pipe


@pytest.mark.parametrize("steps", [1, 2, 7, 10, 25])
def test_eta_1_is_finite_at_zero_terminal_snr(steps):
    """The root of -6e-8 in DDIM's step."""
    made = accord.generate(
        zero_snr(tiny_pipeline()), "a red star", num_inference_steps=steps, eta=1.0, output_type="latent"
    )
    assert torch.isfinite(made).all()


def test_the_contexts_scheduler_is_finite_there_too():
    from accord.methods.context.schedulers import ContextDDIMScheduler

    pipe = zero_snr(tiny_pipeline(), ContextDDIMScheduler)
    assert torch.isfinite(accord.generate(pipe, "a star", num_inference_steps=10, eta=1.0, output_type="latent")).all()


def test_eta_elsewhere_is_what_it_was():
    from accord.diffusion.process import rooted_eta

    scheduler = tiny_pipeline().scheduler
    scheduler.set_timesteps(25)
    assert all(rooted_eta(scheduler, t, eta) == eta for t in scheduler.timesteps for eta in (0.0, 0.5, 1.0))
    assert rooted_eta(DDPMScheduler(), 5, 1.0) == 1.0


# --- realign --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("slicing", ["auto", "max", 1])
def test_realign_with_attention_slicing_runs_and_leaves_it_on(slicing):
    pipe = accord.load(device="cpu")
    pipe.enable_attention_slicing(slicing)
    before = dict(pipe.unet.attn_processors)
    config = accord.RealignConfig(rounds=1, good_enough=1.0)
    found = accord.realign(pipe, "two green fish", 1, config=config, num_inference_steps=4, captions=False)[0]
    assert found.rounds == 1 and dict(pipe.unet.attn_processors) == before
    pipe.disable_attention_slicing()
    plain = accord.realign(pipe, "two green fish", 1, config=config, num_inference_steps=4, captions=False)[0]
    assert (
        np.abs(np.asarray(found.before).astype(int) - np.asarray(plain.before)).max() <= 2
    )  # another kernel, the same picture


def test_every_number_of_a_config_must_be_one():
    from accord.methods.context.config import ContextTrainConfig
    from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
    from accord.methods.video.config import EditConfig
    from accord.training.guard import GuardConfig
    from accord.training.loop import LoopConfig

    needed = {LoopConfig: {"steps": 1, "learning_rate": 0.1}}
    for kind in (
        accord.RealignConfig,
        accord.TuneConfig,
        EditConfig,
        ContextTrainConfig,
        InvertTrainConfig,
        PredictorConfig,
        GuardConfig,
        LoopConfig,
    ):
        for one in fields(kind):
            if one.type in ("float", float):
                for value in (float("nan"), float("inf"), -float("inf")):
                    with pytest.raises(ValueError, match=one.name):
                        kind(**needed.get(kind, {}) | {one.name: value})


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), -1.0])
def test_the_modulation_of_a_video_must_be_a_number(weight):
    from accord.methods.realign.video import modulate_video

    with pytest.raises(ValueError, match="modulation must be"):
        modulate_video(weight)


# --- runs -----------------------------------------------------------------------------------------------------------
def run_of(folder, steps=4, seed=0):
    """A short run of a few numbers; its last loss."""
    from accord.training.loop import LoopConfig, Run

    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    run = Run(
        {"model": model},
        LoopConfig(steps=steps, learning_rate=0.1, seed=seed, save_every=1, ema_decay=0.9, warmup_steps=0),
        folder,
    )
    begun = run.step

    def loss(step, g):
        x = torch.randn(8, 4, generator=g)
        return (model(x) - x[:, :2]).square().mean(), {}

    run.train(loss, progress=False)
    return begun, {k: v.clone() for k, v in model.state_dict().items()}


@pytest.mark.parametrize(
    "damage",
    [
        "model lost",
        "ema lost",
        "optimiser lost",
        "all of the optimiser lost",
        "model misshapen",
        "nan",
        "nan in the optimiser",
        "whole numbers",
        "another type",
        "two counts",
        "cut",
        "state",
        "deep",
        "other step",
    ],
)
def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path, damage):
    _, whole = run_of(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    newest = sorted((tmp_path / "b" / "checkpoints").glob("step-*"))[-1]
    path = newest / "state.safetensors"
    tensors = load_file(path)
    if damage == "model lost":
        del tensors["model.model.weight"]
    elif damage == "ema lost":
        del tensors["ema.model.bias"]
    elif damage == "optimiser lost":
        del tensors["optim.exp_avg.model.weight"]
    elif damage == "all of the optimiser lost":
        tensors = {k: v for k, v in tensors.items() if not k.startswith("optim.")}
    elif damage == "model misshapen":
        tensors["model.model.weight"] = torch.zeros(1)
    elif damage == "nan":
        tensors["model.model.weight"][0, 0] = float("nan")
    elif damage == "whole numbers":
        tensors["ema.model.weight"] = tensors["ema.model.weight"].long()
    elif damage == "another type":
        tensors["optim.exp_avg.model.weight"] = tensors["optim.exp_avg.model.weight"].double()
    elif damage == "two counts":
        tensors["counts.skipped"] = torch.zeros(2, dtype=torch.float64)
    elif damage == "nan in the optimiser":
        tensors["optim.exp_avg_sq.model.weight"][0, 0] = float("inf")
    save_file(tensors, path)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "state":
        (newest / "state.json").write_text("[1]")
    elif damage == "deep":
        (newest / "state.json").write_text("[" * 100_000)
    elif damage == "other step":
        (newest / "state.json").write_text(json.dumps({"step": 1}))
    begun, found = run_of(tmp_path / "b")
    assert begun == 3  # the one before
    assert all(torch.equal(found[k], whole[k]) for k in whole)


@pytest.mark.parametrize("make", ["pipe", "folder", "loop"])
def test_a_curve_that_is_no_file_is_refused(tmp_path, make):
    run_of(tmp_path)
    (tmp_path / "curve.jsonl").unlink()
    how = {"pipe": os.mkfifo, "folder": os.mkdir, "loop": lambda path: os.symlink(path, path)}
    how[make](tmp_path / "curve.jsonl")
    with pytest.raises(InputError, match="curve"):
        run_of(tmp_path, steps=6)


def test_a_run_without_its_config_is_not_gone_on_with(tmp_path):
    from accord.training.claim import claim

    def take(settings):
        with claim(tmp_path, settings) as anew:
            return anew

    assert take({"rate": 1})
    run_of(tmp_path)
    assert not take({"rate": 1})
    with pytest.raises(InputError, match="rate=1, not 2"):
        take({"rate": 2})
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json"):
        take({"rate": 2})
    (tmp_path / "config.json").write_text('{"rate": 2, "rate": 1}')
    with pytest.raises(InputError, match="twice"):
        take({"rate": 1})


def test_reports_hold_no_host_name_and_no_path(tmp_path):
    from accord.methods.context.pipeline import ContextDiffPipeline, new_relation
    from accord.training.tensorboard import TensorBoardLogger

    board = TensorBoardLogger(tmp_path / "board")
    board.scalars({"step": 1, "loss": 0.5})
    board.images("look", torch.rand(2, 3, 8, 8), 1)
    board.close()
    assert [p for p in (tmp_path / "board").iterdir()] and not any(
        socket.gethostname() in p.name for p in (tmp_path / "board").iterdir()
    )
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    pipe = accord.load(str(tmp_path / "pipe"), "cpu")
    ContextDiffPipeline.from_pipeline(pipe, new_relation(pipe)).save_pretrained(tmp_path / "context")
    texts = [p.read_text() for p in (tmp_path / "context").rglob("*.json")]
    assert texts and not any(str(tmp_path) in t for t in texts)
    ContextDiffPipeline.from_pretrained(tmp_path / "context")


def test_tensorboard_reads_what_its_logger_writes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from accord.training.tensorboard import TensorBoardLogger

    for first, last in ((0, 3), (2, 4)):  # a run that was killed after step 3, and resumed at step 2
        board = TensorBoardLogger(tmp_path, first)
        for step in range(first + 1, last + 1):
            board.scalars({"step": step, "loss": float(step + 10 * first)})
        board.images("look", torch.rand(9, 3, 8, 8), last)
        board.close()
        time.sleep(1.1)  # files are read in the order of their seconds
    read = EventAccumulator(str(tmp_path))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(1, 1.0), (2, 2.0), (3, 23.0), (4, 24.0)]
    assert read.Images("look")[-1].width == 64


# --- time -----------------------------------------------------------------------------------------------------------
def test_the_words_that_fall_off_cost_as_many_tokens_as_fit():
    from accord.data.prompts import words_beyond

    counted = []

    def tokens(text):
        counted.append(len(text.split()))
        return len(text.split())

    text = " ".join(f"w{i}" for i in range(3000))
    assert words_beyond(text, tokens, 75).startswith("w75 w76 ")
    assert sum(counted) < 3000
    counted.clear()
    assert words_beyond(" ".join(f"w{i}" for i in range(80)), tokens, 75) == "w75 w76 w77 w78 w79"
    assert words_beyond(" ".join(f"w{i}" for i in range(75)), tokens, 75) == ""


@pytest.mark.timeout(60)  # it took minutes
def test_a_prompt_of_3000_words_is_refused_at_once():
    pipe = tiny_pipeline()
    with pytest.raises(InputError, match="would fall off: 'star star"):
        accord.generate(pipe, "star " * 3000, 0)


@pytest.mark.parametrize("text", ["big and " * 3000, "the left of and " * 50_000, "x" * 100_000, "a " * 1001])
def test_a_prompt_beyond_all_encoders_is_not_taken_apart(text):
    from accord.prompts.phrases import phrases_of

    with pytest.raises(InputError, match="at most: shorten it"):
        phrases_of(text)


def test_many_prompts_are_tokenised_together(monkeypatch):
    from accord.diffusion.pipelines import check_prompts

    pipe, calls = tiny_pipeline(), []
    real = type(pipe.tokenizer).__call__
    monkeypatch.setattr(type(pipe.tokenizer), "__call__", lambda self, *a, **k: calls.append(1) or real(self, *a, **k))
    check_prompts(pipe, [f"a red star {i}" for i in range(10_000)])
    assert len(calls) < 20
    with pytest.raises(InputError, match="fall off"):
        check_prompts(pipe, ["a star"] * 5000 + ["star " * 200])


def test_the_embedded_models_still_load():
    assert accord.load_captioner(str(MODELS / "captioner")).image_size == 64


def test_a_saved_tokenizer_has_nothing_of_its_last_call(tmp_path, monkeypatch):
    """A run of the lab that was killed after its last step saved another tokenizer.json than one that was not."""
    from accord_lab.recipes.saving import at_rest
    from accord_lab.recipes.tokenizers import bert_tokenizer, clip_tokenizer, corpus

    monkeypatch.setattr(corpus, "__defaults__", (2_000, 1))
    for make in (bert_tokenizer, clip_tokenizer):
        used, fresh = make(), make()
        used(["a red star", "a key"], padding="longest", truncation=True)
        at_rest(used).save_pretrained(tmp_path / "used")
        at_rest(fresh).save_pretrained(tmp_path / "fresh")
        assert (tmp_path / "used" / "tokenizer.json").read_bytes() == (
            tmp_path / "fresh" / "tokenizer.json"
        ).read_bytes()
