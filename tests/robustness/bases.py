"""Files that the generated inputs are made from, each made once, when it is first asked for."""

from __future__ import annotations

import fcntl
import importlib
import json
import shutil
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown", "a green tree", "a yellow egg"]
CLIP_SIDE = 32


@dataclass(frozen=True)
class Bases:
    """A folder of base files.

    Attributes:
        folder: where they are kept; several processes may share it.
    """

    folder: Path

    def __call__(self, name: str) -> Path:
        """The base file or folder of that name, a key of `MAKERS`."""
        path = self.folder / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.folder / f"{name.replace('/', '-')}.lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not path.exists():
                    part = path.with_name(f"making-{path.name}")
                    shutil.rmtree(part, ignore_errors=True)
                    MAKERS[name](part, self)
                    part.rename(path)
        return path


# --- pictures that are small as files and large in memory
# ---------------------------------------------------------------
def flat_png(path: Path, side: int, depth: int, color: int, extra: bytes = b"") -> None:
    """A PNG of one colour, written by hand: no picture of it is ever in memory."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[color]
    row = b"\0" + bytes((side * depth * samples + 7) // 8)
    packer = zlib.compressobj(1)
    data = b"".join([*(packer.compress(row * 16) for _ in range(side // 16 + 1)), packer.flush()])
    head = side.to_bytes(4, "big") * 2 + bytes([depth, color, 0, 0, 0])
    palette = chunk(b"PLTE", bytes(6)) if color == 3 else b""
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + palette + extra + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def chunk(kind: bytes, data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")


def _text_bomb(path: Path, bases: Bases) -> None:
    flat_png(path, 16, 8, 2, chunk(b"zTXt", b"note\0\0" + zlib.compress(bytes(200_000_000), 1)))


def _pil_bomb(mode: str, side: int, **options: Any) -> Callable[[Path, Bases], None]:
    def make(path: Path, bases: Bases) -> None:
        from PIL import Image

        Image.new(mode, (side, side)).save(path, **options)

    return make


def _png_bomb(side: int, depth: int, color: int) -> Callable[[Path, Bases], None]:
    return lambda path, bases: flat_png(path, side, depth, color)


def _gif_bomb(side: int, frames: int) -> Callable[[Path, Bases], None]:
    """One frame, encoded once, and repeated."""

    def make(path: Path, bases: Bases) -> None:
        from PIL import Image

        Image.new("L", (side, side)).save(path, format="GIF")
        data = path.read_bytes()
        start = data.index(b"\x2c", 13 + 3 * 2 ** ((data[10] & 7) + 1 if data[10] & 128 else 0))
        path.write_bytes(data[:start] + (b"\x21\xf9\x04\0\x0a\0\0\0" + data[start:-1]) * frames + b";")

    return make


# --- videos
# ----------------------------------------------------------------------------------------------------------------
def _video(suffix: str, side: int = 32, count: int = 6) -> Callable[[Path, Bases], None]:
    def make(path: Path, bases: Bases) -> None:
        from accord.data.video import write_video

        written = write_video(path.with_name(f"one-{path.name}").with_suffix(suffix), moving(count, side), 8)
        written.rename(path)

    return make


def moving(count: int, side: int = 32) -> list[Any]:
    """Frames of a square that moves."""
    from PIL import Image, ImageDraw

    frames = []
    for i in range(count):
        frame = Image.new("RGB", (side, side), "white")
        ImageDraw.Draw(frame).rectangle((2 * i, 4, 2 * i + side // 3, 4 + side // 3), fill=(200, 30 * i % 255, 40))
        frames.append(frame)
    return frames


# --- tables that are small as files and large in memory
# -----------------------------------------------------------------
def _long_texts(path: Path, bases: Bases) -> None:
    """64 texts of 32 MB in some kB."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(
        path, pa.schema([("image", pa.string()), ("prompt", pa.string())]), compression="zstd", use_dictionary=False
    ) as file:
        table = pa.table({"image": ["a.png"], "prompt": ["star " * 6_500_000]})
        for _ in range(64):
            file.write_table(table)


def _many_rows(path: Path, bases: Bases) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    count = 1_000_000
    pq.write_table(
        pa.table({"image": [f"{i}.png" for i in range(count)], "prompt": [f"a red star {i}" for i in range(count)]}),
        path,
    )


def _same_texts(path: Path, bases: Bases) -> None:
    """A dictionary of one long text, and 4000 rows of it in one row group."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["star " * 200_000]))
    pq.write_table(pa.table({"image": ["a.png"] * 4000, "prompt": rows}), path, compression="zstd")


# --- models
# ---------------------------------------------------------------------------------------------------------------
@cache
def tiny_models() -> ModuleType:
    """The tests' own tiny pipelines."""
    tests = str(Path(__file__).parents[1])
    if tests not in sys.path:  # they build on each other
        sys.path.append(tests)
    return importlib.import_module("tiny_models")


def _sd(path: Path, bases: Bases) -> None:
    tiny_models().tiny_pipeline().save_pretrained(path)


def _sdxl(path: Path, bases: Bases) -> None:
    tiny_models().tiny_sdxl().save_pretrained(path)


def _processor(source: str, path: Path) -> None:
    """The lab's settings of a processor, for smaller pictures."""
    settings = json.loads((tiny_models().MODELS / source / "preprocessor_config.json").read_text())
    settings["size"] = settings["crop_size"] = {"height": CLIP_SIDE, "width": CLIP_SIDE}
    (path / "preprocessor_config.json").write_text(json.dumps(settings))


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": CLIP_SIDE,
    "patch_size": 8,
}
TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def _clip_model(path: Path, bases: Bases) -> None:
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models().MODELS / "clip")
    ids = {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    text = TEXT | ids | {"vocab_size": len(tokenizer), "projection_dim": 16}
    CLIPModel(
        CLIPConfig(text_config=text, vision_config=VISION | {"projection_dim": 16}, projection_dim=16)
    ).save_pretrained(path)
    tokenizer.save_pretrained(path)
    _processor("clip", path)


def _blip(path: Path, bases: Bases) -> None:
    import torch
    from transformers import AutoTokenizer, BlipConfig, BlipForConditionalGeneration

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models().MODELS / "captioner")
    text = TEXT | {"vocab_size": len(tokenizer), "encoder_hidden_size": 32, "pad_token_id": 0}
    text |= {"bos_token_id": tokenizer.bos_token_id, "sep_token_id": tokenizer.sep_token_id}
    BlipForConditionalGeneration(BlipConfig(text_config=text, vision_config=VISION)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    _processor("captioner", path)
    shutil.copy(tiny_models().MODELS / "captioner" / "lexicon.json", path)


def _sentence(path: Path, bases: Bases) -> None:
    import torch
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_models().MODELS / "captioner")
    BertModel(BertConfig(**TEXT, vocab_size=len(tokenizer))).save_pretrained(path)
    tokenizer.save_pretrained(path)


def _inverter(path: Path, bases: Bases) -> None:
    import torch

    from accord.methods.invert.config import PredictorConfig
    from accord.methods.invert.inverter import Inverter
    from accord.methods.invert.predictors import Predictor, build
    from accord.methods.invert.vocabulary import Vocabulary

    torch.manual_seed(0)
    kinds = [PredictorConfig("clip", str(bases("models/clip")), hidden=8), PredictorConfig("vit", hidden=8)]
    words = Vocabulary(tuple("red blue star key fish".split()))
    predictors = [Predictor(build(k, len(words), embedding=16).tower, len(words), k.hidden, 16) for k in kinds]
    path.mkdir()
    Inverter(predictors, kinds, words, [0.5, 0.5], lab=True).save_pretrained(path)


def _lora(path: Path, bases: Bases) -> None:
    from accord.diffusion.lora import add_lora, save_lora
    from accord.diffusion.pipelines import load

    pipe = load(str(bases("models/sd")), "cpu")
    add_lora(pipe, 2)
    path.mkdir()
    save_lora(pipe, path)


def _context(denoiser: str) -> Callable[[Path, Bases], None]:
    def make(path: Path, bases: Bases) -> None:
        import runs

        runs.train_context_on(bases, path, denoiser)
        for name in ("checkpoints", "tensorboard"):
            shutil.rmtree(path / name, ignore_errors=True)

    return make


# --- runs
# -----------------------------------------------------------------------------------------------------------------
def _run(name: str) -> Callable[[Path, Bases], None]:
    """`whole`: a finished run; `half`: the same, killed after its first checkpoint."""

    def make(path: Path, bases: Bases) -> None:
        import runs

        kind = runs.RUNS[name]
        kind.resume(path / "whole", bases)
        shutil.copytree(path / "whole", path / "half")
        for found in (p for pattern in kind.made for p in path.glob(f"half/{pattern}")):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
        for folder in {p.parent for p in path.glob("half/**/step-*")}:
            for late in sorted(folder.glob("step-*"))[1:]:
                shutil.rmtree(late)
        shutil.copytree(path / "half", path / "again")
        kind.resume(path / "again", bases)
        if (again := kind.artefacts(path / "again")) != (whole := kind.artefacts(path / "whole")) or not whole:
            raise AssertionError(f"the run {name} is not the same after a resume: {sorted(again)} {sorted(whole)}")
        shutil.rmtree(path / "again")
        (path / "artefacts.json").write_text(json.dumps(whole))

    return make


MAKERS: dict[str, Callable[[Path, Bases], None]] = {
    "pictures/rgb-99-megapixels.png": _png_bomb(9_900, 8, 2),
    "pictures/rgba-16-bit-90-megapixels.png": _png_bomb(9_500, 16, 6),
    "pictures/gray-16-bit-99-megapixels.png": _png_bomb(9_900, 16, 0),
    "pictures/one-bit-99-megapixels.png": _png_bomb(9_900, 1, 0),
    "pictures/palette-400-megapixels.png": _png_bomb(20_000, 1, 3),
    "pictures/long-text.png": _text_bomb,
    "pictures/rgb-96-megapixels.jpg": _pil_bomb("RGB", 9_800, format="JPEG"),
    "pictures/progressive-64-megapixels.jpg": _pil_bomb("RGB", 8_000, format="JPEG", progressive=True),
    "pictures/rgba-64-megapixels.tif": _pil_bomb("RGBA", 8_000, format="TIFF", compression="tiff_adobe_deflate"),
    "pictures/float-64-megapixels.tif": _pil_bomb("F", 8_000, format="TIFF", compression="tiff_adobe_deflate"),
    "pictures/81-megapixels.gif": _pil_bomb("L", 9_000, format="GIF"),
    "pictures/49-megapixels.webp": _pil_bomb("RGB", 7_000, format="WEBP", lossless=True, method=0, quality=0),
    "videos/small.gif": _video(".gif"),
    "videos/small.mp4": _video(".mp4"),
    "videos/small.webm": _video(".webm"),
    "videos/small.mkv": _video(".mkv"),
    "videos/small.avi": _video(".avi"),
    "videos/64-frames-of-16-megapixels.gif": _gif_bomb(4_096, 64),
    "videos/5000-frames.gif": _gif_bomb(8, 5_000),
    "videos/100-frames-of-1-megapixel.mp4": _video(".mp4", 1_024, 100),
    "tables/long-texts.parquet": _long_texts,
    "tables/many-rows.parquet": _many_rows,
    "tables/same-texts.parquet": _same_texts,
    "models/sd": _sd,
    "models/sdxl": _sdxl,
    "models/clip": _clip_model,
    "models/blip": _blip,
    "models/sentence": _sentence,
    "models/inverter": _inverter,
    "models/lora": _lora,
    "models/context-frozen": _context("frozen"),
    "models/context-lora": _context("lora"),
    "models/context-full": _context("full"),
    **{f"runs/{name}": _run(name) for name in ("loop", "inverter", "reward", "context", "edit", "pairs", "table")},
}
