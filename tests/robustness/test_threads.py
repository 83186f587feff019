"""Threads: what two of them do at once is what each does alone, and the pipeline is left as it was."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import MODELS, tiny_flux, tiny_pipeline

import accord
from accord.diffusion.opened import Opened
from accord.diffusion.pipelines import check_prompt_length
from accord.diffusion.spans import read_texts
from accord.diffusion.state import held

PROMPTS = ["a red star to the left of a blue key", "two green fish", "a yellow moon", "a pink heart above a cyan car"]


def at_once(*jobs):
    """Results of jobs that start together, each in a thread of its own."""
    start = threading.Barrier(len(jobs))

    def run(job):
        start.wait()
        return job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        return [f.result() for f in [pool.submit(run, job) for job in jobs]]


def told(result):
    return np.asarray(result.before), np.asarray(result.after), result.alignment_after.overall


@pytest.fixture(scope="module")
def judge():
    return accord.load_captioner()


def test_twenty_interleavings_of_realign_on_one_pipeline():
    pipe, judge = tiny_pipeline(), accord.load_captioner()
    judge.lexicon = replace(
        judge.lexicon, nouns={"star": "stars", "key": "keys"}, colors=("red", "blue")
    )  # few words to weigh
    processors = dict(pipe.unet.attn_processors)
    settings = {"captioner": judge, "num_inference_steps": 3, "captions": False}

    def realign(i: int):
        config = accord.RealignConfig(rounds=1, mode=("new_seed", "same_seed")[i % 2], good_enough=1.0)
        return told(accord.realign(pipe, ("a star", "a blue key")[i // 2 % 2], i, config=config, **settings)[0])

    alone = {i: realign(i) for i in range(8)}
    for k in range(20):
        a, b = k % 8, (3 * k + 1) % 8
        for i, found in zip((a, b), at_once(lambda a=a: realign(a), lambda b=b: realign(b)), strict=True):
            for x, y in zip(found, alone[i], strict=True):
                assert np.array_equal(x, y), (k, i)
    assert dict(pipe.unet.attn_processors) == processors


def test_a_plain_run_beside_a_modulated_one_is_plain(judge):
    pipe = accord.load(device="cpu")
    plain = np.asarray(accord.generate(pipe, PROMPTS[0], 5, num_inference_steps=4)[0])
    config = accord.RealignConfig(rounds=1, good_enough=1.0)

    def modulate():
        return accord.realign(
            pipe, PROMPTS[3], 1, config=config, captioner=judge, num_inference_steps=6, captions=False
        )

    def generate():
        return [np.asarray(accord.generate(pipe, PROMPTS[0], 5, num_inference_steps=4)[0]) for _ in range(4)]

    _, found = at_once(modulate, generate)
    assert all(np.array_equal(f, plain) for f in found)


def test_a_pipeline_of_its_own_call_is_not_mixed_up():
    pipe = tiny_flux()
    alone = [np.asarray(accord.generate(pipe, "a red star", s, num_inference_steps=n)[0]) for s, n in ((0, 2), (1, 5))]
    for _ in range(5):
        found = at_once(
            *(
                lambda s=s, n=n: np.asarray(accord.generate(pipe, "a red star", s, num_inference_steps=n)[0])
                for s, n in ((0, 2), (1, 5))
            )
        )
        assert all(np.array_equal(a, b) for a, b in zip(found, alone, strict=True))


def test_two_pipelines_run_side_by_side():
    """A lock is of one network: a thread that holds another's is not waited for."""
    from accord.methods.video.hook import attention_hook

    one, other = tiny_pipeline(), tiny_pipeline()
    inside, leave = threading.Event(), threading.Event()

    def hold():
        with attention_hook(one.unet, lambda *_: None):
            inside.set()
            assert leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(30)
    try:
        accord.generate(other, "a red star", 0, num_inference_steps=2)  # does not wait
        waiting = threading.Thread(target=lambda: accord.generate(one, "a red star", 0, num_inference_steps=2))
        waiting.start()
        time.sleep(0.3)
        assert waiting.is_alive()  # of the one that is held it does
    finally:
        leave.set()
        thread.join()
    waiting.join(30)
    assert not waiting.is_alive()


def test_one_judge_for_two_threads(judge):
    """Its tokenizer keeps padding and limit, which two threads mixed."""
    from PIL import Image

    pictures = [Image.new("RGB", (64, 64), c) for c in ("red", "blue")]
    texts = [[PROMPTS[0], "a star"], ["two green fish", "a pink heart above a cyan car and a moon"]]
    clip = accord.load_clip()
    run = [lambda i=i: [s.alignment.to_dict() for s in accord.score(pictures, texts[i], judge, clip)] for i in (0, 1)]
    alone = [r() for r in run]
    for _ in range(3):
        assert at_once(*run) == alone


def test_models_that_are_loaded_at_once_are_whole(tmp_path):
    tiny_pipeline().save_pretrained(tmp_path / "pipe")
    loads = [
        lambda: accord.load(str(tmp_path / "pipe"), "cpu"),
        lambda: accord.load_captioner(str(MODELS / "captioner")),
        lambda: accord.load_clip(str(MODELS / "clip")),
        accord.Inverter.from_pretrained,
    ]
    for _ in range(3):
        for made in at_once(*loads, *loads):
            modules = made.components.values() if hasattr(made, "components") else getattr(made, "predictors", [made])
            for module in modules:
                if isinstance(module, torch.nn.Module):
                    assert all(p.device.type == "cpu" and torch.isfinite(p).all() for p in module.parameters())


@pytest.mark.timeout(120)
def test_making_and_loading_an_inverter_at_once_do_not_wait_for_each_other(tmp_path):
    """Of two locks that were taken in two orders."""
    from accord.methods.invert.config import PredictorConfig
    from accord.methods.invert.inverter import Inverter
    from accord.methods.invert.predictors import build
    from accord.methods.invert.vocabulary import Vocabulary

    white = PredictorConfig(kind="unet")
    Inverter([build(white, 1)], [white], Vocabulary(("red",))).save_pretrained(tmp_path)
    for _ in range(3):
        at_once(lambda: build(PredictorConfig(kind="clip"), 2), lambda: Inverter.from_pretrained(tmp_path))


def test_new_weights_are_a_function_of_their_seed_alone():
    from accord.methods.context.pipeline import new_relation

    pipe = tiny_pipeline()
    alone = [new_relation(pipe, seed=s).state_dict() for s in (0, 1)]
    for _ in range(5):
        for found, wanted in zip(
            at_once(*(lambda s=s: new_relation(pipe, seed=s).state_dict() for s in (0, 1))), alone, strict=True
        ):
            assert all(torch.equal(found[k], wanted[k]) for k in wanted)


def test_who_waits_for_a_tokenizer_that_stands_for_another_waits_for_that_one():
    """While texts are followed the pipeline has another tokenizer. Who met that one and waits for it must not go on
    beside the run that comes next, as it would take the padding off that the run has set."""
    pipe = accord.load(device="cpu")
    tokenizer, found = pipe.tokenizer, []

    def measure():
        check_prompt_length(pipe, PROMPTS[0])
        found.append("measured")

    def meanwhile(*_):
        assert pipe.tokenizer is not tokenizer
        other.start()
        other.join(0.2)

    other = threading.Thread(target=measure)
    hook = pipe.text_encoder.register_forward_pre_hook(meanwhile)
    opened = Opened(pipe, 2, guidance_scale=1.0)
    opened.prefixes = {}
    with held(tokenizer):
        try:
            read_texts(opened, PROMPTS[:1])
        finally:
            hook.remove()
        other.join(0.3)
        assert not found and pipe.tokenizer is tokenizer
    other.join()
    assert found
