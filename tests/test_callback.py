"""`accord.JudgeCallback` on plain pipelines, and `custom_pipeline=` of diffusers."""

import copy
import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
import zoo
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

import accord
from accord.diffusion.process import levels
from accord.embedded import PIPELINE
from accord.judges.callback import JudgeCallback
from accord.types import InputError

PROMPT = "a red star"
PIPELINES = Path(__file__).parents[1] / "integrations" / "diffusers"


@pytest.fixture(scope="module")
def captioner():
    return accord.load_captioner()


def made(pipe, name, **more):
    """A picture of a plain call, from torch's own generator: whoever else drew from it would be seen."""
    torch.manual_seed(3)
    call = {**zoo.CALL[name], "num_inference_steps": 4} | more
    return pipe(prompt=PROMPT, output_type="np", **call).images


@pytest.mark.parametrize("name", ["sd1", "sdxl", "sd35", "flux"])
def test_a_run_that_is_judged_is_bit_for_bit_what_it_was(name, captioner):
    pipe = zoo.shared(name)
    plain = made(pipe, name)
    before, scheduler = set(vars(pipe)), set(vars(pipe.scheduler))
    watch = JudgeCallback(PROMPT, captioner, at=(0.5, 0.75, 0.99), **zoo.CALL[name])
    assert np.array_equal(made(pipe, name, callback_on_step_end=watch), plain)
    assert set(vars(pipe)) == before and set(vars(pipe.scheduler)) == scheduler
    assert [s.index for s in watch.seen] == [1, 2, 3] and not watch.stopped
    assert {s.count for s in watch.seen} == {4}
    assert [s.timestep for s in watch.seen] == sorted((s.timestep for s in watch.seen), reverse=True)
    for seen in watch.seen:
        assert seen.alignments[0].words and 0 < seen.alignments[0].overall <= 1
    # after the last step what is expected is what is made: the last level has no noise, or next to none
    last = watch.seen[-1].images[0].permute(1, 2, 0).numpy()
    end = levels(pipe.scheduler)[-1]
    assert np.abs(last - plain[0]).max() < (1e-3 if float(end.s) == 0 else 0.05)
    first = watch.seen[0].images[0].permute(1, 2, 0).numpy()
    assert np.abs(first - plain[0]).max() > 1e-3


@pytest.mark.parametrize("name", ["sd1", "flux"])
def test_a_run_that_goes_wrong_is_ended(name, captioner):
    pipe = zoo.shared(name)
    plain, steps = made(pipe, name), []

    class Counting(PipelineCallback):
        tensor_inputs = ["latents"]  # noqa: RUF012

        def callback_fn(self, pipeline, step_index, timesteps, callback_kwargs):
            steps.append(step_index)
            return callback_kwargs

    watch = JudgeCallback(PROMPT, captioner, at=(0.5,), stop_below=1.0, **zoo.CALL[name])
    both = MultiPipelineCallbacks([watch, Counting()])
    more = {"callback_on_step_end_tensor_inputs": ["latents"]}
    ended = made(pipe, name, callback_on_step_end=both, **more)
    assert watch.stopped and steps == [0, 1] and not np.array_equal(ended, plain)
    watch.stop_below = 1e-9  # no picture is so bad
    assert np.array_equal(made(pipe, name, callback_on_step_end=watch), plain)
    assert not watch.stopped and len(watch.seen) == 1


@pytest.mark.parametrize("kind", ["DDPMScheduler", "DPMSolverMultistepScheduler"])
def test_schedulers_that_draw_or_remember_are_left_alone(kind, captioner):
    """What is expected comes from what the network said, not from where the step led, which new noise would hide."""
    pipe = copy.copy(zoo.shared("sd1"))
    pipe.register_modules(scheduler=getattr(diffusers, kind).from_config(pipe.scheduler.config))
    plain = made(pipe, "sd1", num_inference_steps=6)
    watch = JudgeCallback(PROMPT, captioner, at=(0.5, 0.99))
    assert np.array_equal(made(pipe, "sd1", num_inference_steps=6, callback_on_step_end=watch), plain)
    last = watch.seen[-1].images[0].permute(1, 2, 0).numpy()
    assert np.abs(last - plain[0]).max() < 0.1 < np.abs(plain[0] - plain[0].mean()).max()


def test_several_pictures_have_their_own_prompts(captioner):
    pipe = zoo.shared("sd1")
    prompts = ["a red star", "a blue key"]
    watch = JudgeCallback(prompts, captioner)
    torch.manual_seed(0)
    pipe(prompts, num_images_per_prompt=2, num_inference_steps=2, callback_on_step_end=watch, **zoo.CALL["sd1"])
    assert [a.prompt.text for a in watch.seen[0].alignments] == [p for p in prompts for _ in range(2)]
    watch.prompts = prompts * 2 + prompts[:1]
    with pytest.raises(InputError, match="makes 4 pictures and prompts are 5"):
        pipe(prompts, num_images_per_prompt=2, num_inference_steps=2, callback_on_step_end=watch)
    assert "step" not in vars(pipe.scheduler)


def test_what_cannot_be_judged_is_refused(captioner):
    for share in (0, 1, -1, float("nan")):
        with pytest.raises(InputError, match="at must be shares"):
            JudgeCallback(PROMPT, captioner, at=(share,))
    with pytest.raises(InputError, match="stop_below must be in"):
        JudgeCallback(PROMPT, captioner, stop_below=2)
    with pytest.raises(InputError, match="a run of one step"):
        made(zoo.shared("sd1"), "sd1", num_inference_steps=1, callback_on_step_end=JudgeCallback(PROMPT, captioner))


# --- a pipeline of its own ------------------------------------------------------------------------------------------
@pytest.fixture
def own_modules(tmp_path, monkeypatch):
    """Where diffusers copies the files of custom pipelines."""
    from diffusers.utils import dynamic_modules_utils

    monkeypatch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr("sys.path", [*__import__("sys").path])


def custom(folder, name):
    return diffusers.DiffusionPipeline.from_pretrained(
        str(folder), custom_pipeline=str(PIPELINES / name), trust_remote_code=True, safety_checker=None
    )


def test_a_custom_pipeline_repairs(own_modules, captioner, lab, tmp_path):
    pipe = custom(PIPELINE, "pipeline_accord.py")
    pipe.set_progress_bar_config(disable=True)
    assert type(pipe).__name__ == "AccordPipeline" and isinstance(pipe, diffusers.StableDiffusionPipeline)
    prompt, few = "two yellow stars", {"num_inference_steps": 4, "config": accord.RealignConfig(rounds=1)}
    made = pipe(prompt, seeds=[2], **few)
    wanted = accord.realign(lab, prompt, 2, captioner=captioner, **few)
    assert [np.asarray(i).tolist() for i in made.images] == [np.asarray(r.after).tolist() for r in wanted]
    assert json.dumps(made.realigned[0].to_dict()) == json.dumps(wanted[0].to_dict())
    few["config"] = accord.RealignConfig(rounds=0)
    again, found = pipe(prompt, generator=torch.Generator().manual_seed(2), judge=captioner, return_dict=False, **few)
    assert np.array_equal(again[0], made.realigned[0].before) and found[0].seed == 2
    drawn = torch.Generator().manual_seed(2)
    torch.rand(1, generator=drawn)
    with pytest.raises(InputError, match="has no seed that makes its pictures again"):
        pipe(prompt, generator=drawn)
    with pytest.raises(InputError, match="seeds are not used beside a generator"):
        pipe(prompt, seeds=1, generator=torch.Generator())


@pytest.mark.slow
def test_a_custom_pipeline_of_xl(own_modules, captioner, tmp_path):
    zoo.shared("sdxl").save_pretrained(tmp_path / "xl")
    pipe = diffusers.DiffusionPipeline.from_pretrained(
        str(tmp_path / "xl"), custom_pipeline=str(PIPELINES / "pipeline_accord_xl.py"), trust_remote_code=True
    )
    pipe.set_progress_bar_config(disable=True)
    call = {**zoo.CALL["sdxl"], "num_inference_steps": 3, "config": accord.RealignConfig(rounds=1)}
    (result,) = pipe(PROMPT, judge=captioner, **call).realigned
    (wanted,) = accord.realign(zoo.shared("sdxl"), PROMPT, 0, captioner=captioner, **call)
    assert np.array_equal(result.before, wanted.before) and np.array_equal(result.after, wanted.after)
