"""Prompts that the files of pictures state."""

import json

import pytest
from PIL import Image, PngImagePlugin

from accord.data.stated import stated_prompt

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"positive": ["6", 0], "negative": ["7", 0]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}},
    "6": {"class_type": "ConditioningSet", "inputs": {"conditioning": ["8", 0]}},
    "8": {"class_type": "CLIPTextEncode", "inputs": {"text": "a red star"}},
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("parameters", "a red star\nNegative prompt: blue\nSteps: 20, Seed: 1"),
        ("parameters", "a red\nstar\nSteps: 20"),
        ("parameters", json.dumps({"prompt": "a red star"})),
        ("prompt", json.dumps(GRAPH)),
        ("invokeai_metadata", json.dumps({"positive_prompt": "a red star"})),
        ("Description", "a red star"),
    ],
)
def test_the_text_beside_the_pixels_is_read(tmp_path, name, text):
    info = PngImagePlugin.PngInfo()
    info.add_text(name, text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    assert stated_prompt(tmp_path / "a.png") == "a red star"


@pytest.mark.parametrize("code", [b"UNICODE\0" + "a red star".encode("utf-16-be"), b"ASCII\0\0\0a red star"])
def test_the_comment_of_a_jpeg_is_read(tmp_path, code):
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif.get_ifd(0x8769)[0x9286] = code
    image.save(tmp_path / "a.jpg", exif=exif)
    assert stated_prompt(tmp_path / "a.jpg") == "a red star"


def test_what_states_none_is_empty(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no picture")
    endless = {"1": {"inputs": {"positive": ["1", 0]}}}
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", json.dumps(endless))
    Image.new("RGB", (8, 8)).save(tmp_path / "c.png", pnginfo=info)
    assert [stated_prompt(tmp_path / f"{n}.png") for n in "abc"] == ["", "", ""]
