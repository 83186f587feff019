"""Weights of words: read from a prompt, and honoured by pipelines with CLIP's encoders."""

from __future__ import annotations

import pytest
import torch
from tiny_models import tiny_flux, tiny_pipeline, tiny_sdxl

import accord
from accord.diffusion.weights import honoured
from accord.prompts.parser import plain_text, weighted_text
from accord.types import InputError

TEXT = "a red star above a blue key"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a (red:1.3) star", [("a", 1.0), ("red", 1.3), ("star", 1.0)]),
        ("((blue)) [key]", [("blue", 1.21), ("key", 0.909091)]),
        ("a++ (b c)1.2, {d}", [("a", 1.21), ("b c", 1.2), (",", 1.0), ("d", 1.05)]),
        ("(small (red:2) cat:0.5)", [("small", 0.5), ("red", 1.0), ("cat", 0.5)]),
        ("a \\(red\\) star", [("a red star", 1.0)]),
        ("(a cat, a dog:1.2) <lora:ink:0.7>, fog", [("a cat, a dog", 1.2), (", fog", 1.0)]),
    ],
)
def test_weights_are_those_of_the_words_of_the_plain_text(prompt, expected):
    pieces, lost = weighted_text(prompt)
    assert list(pieces) == expected and not lost
    said = " ".join(text for text, _ in pieces).replace(" ,", ",")
    assert said == plain_text(prompt)[0]


def test_a_weight_of_no_word_is_named():
    assert [s.text for s in weighted_text("a cat::2 a dog:1.2")[1]] == ["::2", ":1.2"]


@pytest.mark.parametrize("make", [tiny_pipeline, tiny_sdxl])
def test_honoured_weights_change_the_weighted_words_alone(make):
    pipe = make()
    own = pipe.encode_prompt(TEXT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    before = accord.generate(pipe, TEXT, num_inference_steps=2, height=32, width=32, output_type="pt")
    weights = {TEXT: [("a", 1.0), ("red", 1.5), ("star above a blue key", 1.0)]}
    with honoured(pipe, weights):
        states = pipe.encode_prompt(TEXT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=True)
    moved = (states[0] - own[0]).abs().amax((0, 2)) > 1e-6
    assert moved.nonzero().flatten().tolist() == [2]  # start, a, red
    assert all(torch.equal(a, b) for a, b in zip(states[1:], own[1:], strict=True) if a is not None)
    with honoured(pipe, weights):
        after = accord.generate(pipe, TEXT, num_inference_steps=2, height=32, width=32, output_type="pt")
        free = accord.generate(pipe, "a blue key", num_inference_steps=2, height=32, width=32, output_type="pt")
    assert not torch.equal(before, after)
    again = accord.generate(pipe, TEXT, num_inference_steps=2, height=32, width=32, output_type="pt")
    other = accord.generate(pipe, "a blue key", num_inference_steps=2, height=32, width=32, output_type="pt")
    assert torch.equal(again, before) and torch.equal(free, other)


def test_a_weight_of_one_changes_nothing_and_a_heavier_word_moves_further():
    def states(weight: float) -> torch.Tensor:
        pipe = tiny_pipeline()
        with honoured(pipe, {TEXT: [("a", 1.0), ("red", weight), ("star above a blue key", 1.0)]}):
            return pipe.encode_prompt(TEXT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[0]

    own = tiny_pipeline().encode_prompt(TEXT, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)[
        0
    ]
    small, large = (float((states(w) - own).norm()) for w in (1.1, 1.4))
    assert torch.equal(states(1.0), own) and 0 < small < large


def test_what_cannot_be_honoured_is_refused(accord_cli, tmp_path):
    with (
        pytest.raises(InputError, match="no text encoders of CLIP alone"),
        honoured(tiny_flux(), {TEXT: [(TEXT, 1.2)]}),
    ):
        pass
    with (
        pytest.raises(InputError, match="in another way than compel"),
        honoured(tiny_pipeline(), {TEXT: [("another text", 1.2)]}),
    ):
        pass
    for prompt, given, why in (
        ("a star::2", "honour", "is the weight of no word"),
        ("a (red:2) star", "heavy", "weights 'heavy' is unknown"),
    ):
        code, _, err = accord_cli("generate", prompt, "--weights", given, "--out", str(tmp_path / "out"))
        assert code == 2 and why in err and not (tmp_path / "out").exists()


def test_rows_of_a_file_are_weighed_each_for_itself(accord_cli, tmp_path):
    rows = ["a (red:1.6) star", "a red star", "a (red:0.5) star", "a star::2"]
    (tmp_path / "p.txt").write_text("\n".join(rows))
    out = tmp_path / "out"
    code, _, err = accord_cli(
        "generate", "--prompts", str(tmp_path / "p.txt"), "--weights", "honour", "--steps", "2", "--out", str(out)
    )
    pictures = [p.read_bytes() for p in sorted(out.glob("*.png"))]
    assert code == 0 and len(pictures) == 3 == len(set(pictures)), err
    assert "is the weight of no word" in err


def test_the_command_honours_or_strips(accord_cli, tmp_path):
    pictures = []
    for given in ("strip", "honour"):
        out = tmp_path / given
        code, _, err = accord_cli("generate", "a (red:1.6) star", "--weights", given, "--steps", "2", "--out", str(out))
        assert code == 0 and ("set aside: weight" in err) == (given == "strip"), err
        pictures.append(next(out.glob("*.png")).read_bytes())
    assert pictures[0] != pictures[1]
