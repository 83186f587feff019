"""Prompts out of the files that people have."""

import json

import pytest

from accord.data.prompt_files import read_prompts
from accord.types import InputError


def write(path, text, encoding="utf8"):
    path.write_bytes(text.encode(encoding))
    return path


def test_text_csv_jsonl_and_coco(tmp_path):
    assert read_prompts(write(tmp_path / "a.txt", "a star\n\n  two keys \n")) == ["a star", "two keys"]
    table = '\ufeffid,Prompt,kind\r\n1,"a star\nabove a key",x\r\n2,,x\r\n3,"say ""hi""",y\r\n'
    assert read_prompts(write(tmp_path / "a.csv", table)) == ["a star above a key", 'say "hi"']
    assert read_prompts(write(tmp_path / "b.csv", "a star\na key\n")) == ["a star", "a key"]
    lines = '{"caption": "a star"}\n"a key"\n'
    assert read_prompts(write(tmp_path / "a.jsonl", lines)) == ["a star", "a key"]
    coco = {"images": [], "annotations": [{"id": 1, "image_id": 2, "caption": "A man.\n"}, {"caption": "A dog."}]}
    assert read_prompts(write(tmp_path / "captions.json", json.dumps(coco))) == ["A man.", "A dog."]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.txt", " \n", "holds no prompt"),
        ("a.csv", "id,kind\n1,x\n", "^prompts file [^(]*no prompt column among id, kind"),
        ("a.jsonl", '"a star"\n{broken\n', "line 2 of prompts file"),
        ("a.json", "{broken", "is no valid JSON"),
        ("b.json", "null", "neither a JSON list nor COCO captions"),
        ("c.json", '{"annotations": {"a": 1}}', "neither a JSON list nor COCO captions"),
        ("d.json", "[" * 100_000, "prompts file"),
        ("a.pdf", "x", "is none of .txt"),
    ],
)
def test_bad_files_are_named(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read_prompts(write(tmp_path / name, text))
    with pytest.raises(InputError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_prompts(write(tmp_path / "latin.txt", "é", "latin1"))
