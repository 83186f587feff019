"""Videos in and out, inflation, one-shot tuning, inversion and editing, measures."""

import copy
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import moving, tiny_pipeline, tiny_sdxl
from PIL import Image

import accord
from accord.data.video import Video, read_video, write_video
from accord.diffusion.lora import add_lora
from accord.methods.realign import video as realign_video
from accord.methods.video.config import EditConfig
from accord.methods.video.editing import VideoEditor
from accord.methods.video.inflate import TemporalLayers, VideoAttention, first_and_previous, inflated
from accord.methods.video.masks import aligned_tokens
from accord.methods.video.windows import windows
from accord.rewards.video import background_psnr, flicker, foreground, score_video, ssim, track, track_error
from accord.types import InputError
from accord_lab.scenes.read import read
from accord_lab.scenes.videos import EDITS, edited

pytestmark = pytest.mark.usefixtures("no_curve")


def psnr(a: Image.Image, b: Image.Image) -> float:
    error = np.square((np.asarray(a, dtype=float) - np.asarray(b, dtype=float)) / 255).mean()
    return float(10 * np.log10(1 / max(error, 1e-12)))


# --- in and out ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("suffix", [".mp4", ".webm", ".gif", ""])
@pytest.mark.parametrize("size", [(64, 64), (63, 45)])
def test_videos_keep_length_rate_and_pictures(tmp_path, suffix, size):
    frames = [f.resize(size) for f in moving().video.frames]
    path = write_video(tmp_path / f"video{suffix}", frames, 10)
    video = read_video(path, fps=None if suffix else 10)
    assert len(video) == 8 and float(video.fps) == pytest.approx(10, rel=0.01)
    even = tuple(s + s % 2 for s in size) if suffix in (".mp4", ".webm") else size
    assert video.size == even
    cropped = [f.crop((0, 0, *size)) for f in video.frames]
    least = 60 if suffix == "" else 22
    assert min(psnr(a, b) for a, b in zip(frames, cropped, strict=True)) > least
    part = read_video(path, 2, 5)
    assert len(part) == 3 and psnr(part.frames[0], video.frames[2]) > 30
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_the_reader_reads_every_frame_of_an_mp4(tmp_path):
    scene = moving(3)
    video = read_video(write_video(tmp_path / "a.mp4", scene.video.frames, scene.video.fps))
    for frame, truth in zip(video.frames, scene.frames, strict=True):
        found = read(frame).things
        assert [(t.noun, t.color) for t in found] == [(t.noun, t.color) for t in truth.things]


def ffmpegs_own(path: Path, seconds: float, size: tuple[int, int], rate: int) -> list[Image.Image]:
    """ffmpeg's own test picture, in its own MPEG-4 encoding; what went in."""
    import av

    frames = []
    described = f"testsrc2=duration={seconds}:size={size[0]}x{size[1]}:rate={rate}"
    with av.open(described, format="lavfi") as source, av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = *size, "yuv420p", 2_000_000
        for frame in source.decode(video=0):
            frames.append(frame.to_image())
            for packet in stream.encode(frame.reformat(format="yuv420p")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return frames


def test_a_video_of_another_program_is_read(tmp_path):
    frames = ffmpegs_own(tmp_path / "a.mp4", 1.5, (96, 64), 10)
    video = read_video(tmp_path / "a.mp4")
    assert (len(video), video.size, video.fps) == (len(frames), (96, 64), 10) and len(frames) == 15
    assert min(psnr(a, b) for a, b in zip(frames, video.frames, strict=True)) > 20


@pytest.mark.parametrize("fps", [8, 12, 15, 24, 30])
def test_a_gif_keeps_up_with_its_rate(tmp_path, fps):
    video = read_video(write_video(tmp_path / "a.gif", moving(0, 24).video.frames, fps))
    assert len(video) == 24 and float(video.fps) == pytest.approx(fps, rel=0.01)


def test_pixels_that_are_not_square_are_shown_as_players_do(tmp_path):
    import av

    with av.open(str(tmp_path / "wide.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 48, 64, "yuv420p"
        stream.codec_context.sample_aspect_ratio = Fraction(2)
        for packet in [*stream.encode(av.VideoFrame.from_image(Image.new("RGB", (48, 64), "red"))), *stream.encode()]:
            container.mux(packet)
    assert read_video(tmp_path / "wide.mp4").size == (96, 64)


def test_a_rotated_video_is_upright(tmp_path):
    import av

    picture = Image.new("RGB", (96, 64), "white")
    picture.paste("red", (0, 0, 32, 32))  # a corner
    for degrees, size in ((90, (64, 96)), (-90, (64, 96)), (180, (96, 64))):
        with av.open(str(tmp_path / "turned.mp4"), "w") as container:
            stream = container.add_stream("mpeg4", rate=8)
            stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 96, 64, "yuv420p", 2_000_000
            stream.set_display_rotation(degrees)
            for _ in range(3):
                for packet in stream.encode(av.VideoFrame.from_image(picture)):
                    container.mux(packet)
            for packet in stream.encode():
                container.mux(packet)
        video = read_video(tmp_path / "turned.mp4")
        assert video.size == size and psnr(video.frames[0], picture.rotate(degrees, expand=True)) > 20


@pytest.mark.parametrize(
    ("fps", "durations"), [(8, [120, 130]), (15, [70, 60, 70]), (30, [30, 30, 40]), (24, [40, 40, 40, 40, 50, 40])]
)
def test_a_gif_of_rounded_times_has_one_rate(tmp_path, fps, durations):
    frames = moving(0, 12).video.frames
    times = [durations[i % len(durations)] for i in range(12)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=times)
    video = read_video(tmp_path / "a.gif")
    assert len(video) == 12 and float(video.fps) == pytest.approx(fps, rel=0.01)
    assert len(read_video(tmp_path / "a.gif", 0, 5)) == 5


def changing_rate(path: Path, times: tuple[int, ...] = (0, 1, 2, 9, 10, 30)) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=24)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for i, at in enumerate(times):
            frame = av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * i % 256, np.uint8), format="rgb24")
            frame.pts, frame.time_base = at, Fraction(1, 24)
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_a_range_has_the_rate_of_its_own_frames(tmp_path):
    changing_rate(tmp_path / "slower.mp4", (*range(16), *range(28, 200, 12)))
    with pytest.raises(InputError, match="changing frame rate"):
        read_video(tmp_path / "slower.mp4")
    assert [
        (len(c), float(c.fps))
        for c in (read_video(tmp_path / "slower.mp4", 0, 16), read_video(tmp_path / "slower.mp4", 16))
    ] == [
        (16, pytest.approx(24, rel=0.01)),
        (15, pytest.approx(2, rel=0.01)),
    ]


def sound_only(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        stream.layout = "mono"
        for i in range(4):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 16000, 1024 * i
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def song_with_a_cover(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=16000)
        sound.layout = "mono"
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        for packet in [*cover.encode(av.VideoFrame.from_image(Image.new("RGB", (64, 64)))), *cover.encode()]:
            container.mux(packet)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*sound.encode(frame), *sound.encode()]:
            container.mux(packet)


@pytest.mark.parametrize(  # zeros within VP9's own data show as a wrong picture, and nobody is told
    ("suffix", "damage"),
    [(s, d) for s in (".webm", ".avi", ".mp4", ".mkv") for d in ("cut", "zeroed") if (s, d) != (".webm", "zeroed")],
)
def test_a_damaged_video_is_not_taken_for_a_shorter_one(tmp_path, suffix, damage):
    path = write_video(tmp_path / f"a{suffix}", [f.resize((128, 128)) for f in moving(0, 32).video.frames], 8)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2 : len(data) * 5 // 8] = bytes(len(data) // 8)
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"cannot be read|frames are missing"):
        read_video(path)


def test_frames_of_another_program_are_never_replaced(tmp_path):
    frames = moving().video.frames
    (tmp_path / "bear").mkdir()
    frames[0].save(tmp_path / "bear" / "00000.png")  # as DAVIS names them
    with pytest.raises(InputError, match="holds other things than frames that accord wrote"):
        write_video(tmp_path / "bear", frames, 8)
    (tmp_path / "link").symlink_to(write_video(tmp_path / "own", frames, 8), target_is_directory=True)
    write_video(tmp_path / "link", frames[:3], 8)
    assert len(read_video(tmp_path / "own")) == 3 and (tmp_path / "link").is_symlink()


def test_bad_videos_are_named(tmp_path):
    good = write_video(tmp_path / "good.mp4", moving().video.frames, 8)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "cut.mp4").write_bytes(good.read_bytes()[:200])
    (tmp_path / "text.txt").write_text("no video")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "plain").write_text("a file")
    (tmp_path / "noise.gif").write_bytes(b"GIF89a not")
    changing_rate(tmp_path / "changing.mp4")
    sound_only(tmp_path / "sound.mp4")
    song_with_a_cover(tmp_path / "song.mp4")
    frames = moving().video.frames
    frames[0].save(tmp_path / "odd.gif", save_all=True, append_images=frames[1:3], duration=[100, 250, 100])
    (tmp_path / "sizes").mkdir()
    frames[0].save(tmp_path / "sizes" / "0.png")
    frames[1].resize((32, 32)).save(tmp_path / "sizes" / "1.png")
    cases = {
        "none.mp4": "does not exist",
        "empty.mp4": "cannot be read",
        "cut.mp4": "cannot be read",
        "text.txt": "no folder of frames",
        "folder": "holds no frame",
        "noise.gif": "cannot be read",
        "changing.mp4": "changing frame rate",
        "odd.gif": "changing frame rate",
        "sound.mp4": "sound only",
        "song.mp4": "sound only",
        "sizes": "different sizes",
    }
    for name, message in cases.items():
        with pytest.raises(InputError, match=message):
            read_video(tmp_path / name)
    with pytest.raises(InputError, match="no frame from 50 on"):
        read_video(good, 50)
    with pytest.raises(InputError, match="are no range"):
        read_video(good, 5, 5)
    for arguments, message in [
        ((tmp_path / "x.mp4", [], 8), "no frame to write"),
        ((tmp_path / "x.avif", frames, 8), "is none of"),
        ((tmp_path / "x.mp4", frames, 0), "fps must be positive"),
        ((tmp_path / "x.mp4", [frames[0], frames[0].resize((8, 8))], 8), "different sizes"),
        ((good / "x.gif", frames, 8), "cannot be written"),
        ((tmp_path, frames, 8), "is a folder|holds other things than frames"),
        ((tmp_path / "plain", frames, 8), "is a file"),
        ((tmp_path / "folder.mp4", frames, 8), "is a folder"),
        ((tmp_path / "fast.avi", frames, 120_000), "cannot be written at 120000 frames a second"),
        ((tmp_path / "wide.mp4", [Image.new("RGB", (17000, 16))], 8), "frames a second of 17000x16"),
        ((Path(".."), frames, 8), "has no name"),
    ]:
        with pytest.raises(InputError, match=message):
            write_video(*arguments)
    assert (tmp_path / "sound.mp4").is_file()  # a folder that is not a video's is left alone


FULL = """
import os, resource, sys
from pathlib import Path
import numpy as np
from PIL import Image
from accord.data.video import write_video
from accord.types import InputError
frames = [Image.fromarray(p) for p in np.random.default_rng(0).integers(0, 256, (8, 128, 128, 3), dtype=np.uint8)]
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
for name in ("x.gif", "x.mp4", "frames"):
    try:
        write_video(Path(sys.argv[1]) / name, frames, 8)
    except InputError as error:
        print(error)
print(os.listdir(sys.argv[1]))
"""


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60, check=True
    )
    *told, left = done.stdout.splitlines()
    assert len(told) == 3 and all("cannot be written" in line for line in told) and left == "[]"


def test_frames_that_a_gif_has_merged_come_apart_again(tmp_path):
    a, b = moving().video.frames[:2]
    frames = [a, a, a, b, b, a]
    video = read_video(write_video(tmp_path / "still.gif", frames, 8))
    assert len(video) == 6 and [psnr(f, g) > 30 for f, g in zip(video.frames, frames, strict=True)] == [True] * 6
    assert len(read_video(tmp_path / "still.gif", 2, 5)) == 3


def test_frames_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for i, frame in enumerate(moving(0, 12).video.frames):
        frame.save(tmp_path / f"frame{i}.png")
    video = read_video(tmp_path)
    assert all(psnr(a, b) > 50 for a, b in zip(video.frames, moving(0, 12).video.frames, strict=True))


def test_too_large_videos_are_refused(tmp_path, monkeypatch):
    from accord.data import video

    good = write_video(tmp_path / "good.mp4", moving().video.frames, 8)
    monkeypatch.setattr(video, "MAX_FRAMES", 4)
    with pytest.raises(InputError, match="more than 4 frames"):
        read_video(good)
    assert len(read_video(good, 0, 4)) == 4
    monkeypatch.setattr(video, "budget", lambda kind: 3 * 64 * 64 * 4)
    folder = write_video(tmp_path / "folder", moving().video.frames, 8)
    for path in (good, folder):
        with pytest.raises(InputError, match="more than 3 frames of 64x64"):
            read_video(path, 0, 4)
        assert len(read_video(path, 0, 3)) == 3
    monkeypatch.setattr(video, "MAX_FRAME_PIXELS", 100)
    with pytest.raises(InputError, match="scale it down"):
        read_video(good, 0, 2)


# --- lab videos -----------------------------------------------------------------------------------------------------
def test_moving_scenes_are_exact_and_their_edits_keep_the_motion():
    for seed in range(8):
        scene = moving(seed, 8)
        assert len({(f.things[0].noun, f.things[0].color, f.background) for f in scene.frames}) == 1
        for frame in scene.frames:
            x0, y0, x1, y1 = frame.things[0].box
            assert 1 <= x0 < x1 <= 63 and 1 <= y0 < y1 <= 63
        steps = np.diff(scene.track, axis=0)
        along, across = (0, 1) if scene.direction in ("left", "right") else (1, 0)
        sign = 1 if scene.direction in ("right", "down") else -1
        assert (sign * steps[:, along] > 0).all() and not steps[:, across].any()
        assert scene.direction in scene.prompt
        for kind in EDITS:
            other = edited(scene, kind, np.random.default_rng(seed))
            a, b = scene.frames[0], other.frames[0]
            changed = (
                a.things[0].noun != b.things[0].noun,
                a.things[0].color != b.things[0].color,
                a.background != b.background,
            )
            assert (
                changed
                == {
                    "noun": (True, False, False),
                    "color": (False, True, False),
                    "both": (True, True, False),
                    "background": (False, False, True),
                }[kind]
            )
            assert np.abs(other.track - scene.track).max() <= 6
    with pytest.raises(ValueError, match="frames must be at least 2"):
        moving(0, 1)
    with pytest.raises(ValueError, match="kind must be one of"):
        edited(moving(), "size", np.random.default_rng(0))


# --- inflation -----------------------------------------------------------------------------------------------------
def run_unet(pipe, x, states):
    with torch.no_grad():
        added = (
            {"text_embeds": torch.ones(len(x), 32), "time_ids": torch.ones(len(x), 6)}
            if pipe.unet.config.addition_embed_type
            else None
        )
        return pipe.unet(x, 500, states, added_cond_kwargs=added).sample


@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl"])
def test_an_inflated_network_on_one_frame_is_the_image_network_exactly(kind):
    pipe = tiny_sdxl() if kind == "sdxl" else tiny_pipeline(kind)
    x, states = torch.randn(2, 4, 16, 16), torch.randn(2, 77, pipe.unet.config.cross_attention_dim)
    plain = run_unet(pipe, x, states)
    layers = TemporalLayers.of(pipe.unet)
    for layer in layers.layers:  # as if they had been tuned
        torch.nn.init.normal_(layer.to_out.weight)
    with inflated(pipe.unet, layers, 1):
        assert torch.equal(run_unet(pipe, x, states), plain)
    with inflated(pipe.unet, layers, 2):
        assert not torch.equal(run_unet(pipe, x, states), plain)
    assert torch.equal(run_unet(pipe, x, states), plain)  # and leaves nothing behind


def test_equal_frames_give_the_image_networks_result():
    pipe = tiny_pipeline()
    x, states = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 32)
    plain = run_unet(pipe, x, states)
    with inflated(pipe.unet, TemporalLayers.of(pipe.unet), 3):
        out = run_unet(pipe, x.expand(3, -1, -1, -1), states.expand(3, -1, -1))
    assert torch.allclose(out, plain.expand(3, -1, -1, -1), atol=1e-4)  # doubled keys do not change a softmax


def test_frames_see_the_first_and_the_previous_one_only():
    """Changing a frame changes what it and its follower attend to; changing the first changes all."""
    x = torch.arange(4.0).view(1, 4, 1, 1, 1)
    assert first_and_previous(x)[0, :, 0, :, 0].tolist() == [[0, 0], [0, 0], [0, 1], [0, 2]]
    pipe = tiny_pipeline()
    frames, states = torch.randn(5, 4, 16, 16), torch.randn(1, 77, 32).expand(5, -1, -1)

    def moved(changed: int, times: int = 1) -> list[bool]:
        other = frames.clone()
        other[changed] += 1
        with inflated(pipe.unet, None, 5):
            a, b = run_unet(pipe, frames, states), run_unet(pipe, other, states)
        return [(not torch.allclose(p, q, atol=1e-6)) for p, q in zip(a, b, strict=True)]

    assert moved(0) == [True] * 5
    layers = sum(1 for n in pipe.unet.attn_processors if "attn1" in n)
    found = moved(3)
    assert found[:3] == [False] * 3 and found[3] and (found[4] or layers == 0)


def test_videos_in_one_batch_do_not_leak_and_layers_are_saved(tmp_path):
    pipe = tiny_pipeline()
    layers = TemporalLayers.of(pipe.unet)
    with torch.no_grad():
        for layer in layers.layers:
            layer.to_out.weight.normal_(std=0.3)
    x, states = torch.randn(6, 4, 16, 16), torch.randn(6, 77, 32)
    with inflated(pipe.unet, layers, 3):
        both = run_unet(pipe, x, states)
        first = run_unet(pipe, x[:3], states[:3])
    assert torch.allclose(both[:3], first, atol=1e-5)
    layers.save_pretrained(tmp_path)
    back = TemporalLayers.from_pretrained(tmp_path)
    with inflated(pipe.unet, back, 3):
        assert torch.allclose(run_unet(pipe, x, states), both, atol=1e-5)
    wrong = TemporalLayers([8], 2)
    with pytest.raises(InputError, match=r"the temporal layers are of widths \[8\]"), inflated(pipe.unet, wrong, 3):
        pass


def test_windows_cover_all_frames_and_are_whole():
    for count in (1, 5, 16, 17, 40):
        found = windows(count, 8, 3)
        assert sorted({i for w in found for i in w}) == list(range(count))
        assert all(len(w) == min(8, count) for w in found)


# --- editing -------------------------------------------------------------------------------------------------------
QUICK = EditConfig(
    tune_steps=3, num_inference_steps=8, guidance_scale=3.0, window=4, overlap=1, injection=0.0, mask_blending=0.0
)


def editor(tmp_path, config=QUICK, kind="sd2", frames=4) -> VideoEditor:
    pipe = tiny_sdxl() if kind == "sdxl" else tiny_pipeline(kind)
    made = VideoEditor(pipe, moving(1, frames).video, "a red star", config)
    made.tune(tmp_path / "run", progress=False)
    return made


def test_a_pipeline_with_an_adapter_has_its_queries_tuned_too(tmp_path):
    pipe = tiny_pipeline()
    plain = VideoEditor(pipe, moving(1, 2).video, "a red star", QUICK)
    plain.save(tmp_path / "plain")
    add_lora(pipe, 2)
    adapted = VideoEditor(pipe, moving(1, 2).video, "a red star", QUICK)
    assert len(adapted.parts.queries) == len(plain.parts.queries) > 0
    with pytest.raises(InputError, match="was tuned with network="):
        adapted.load(tmp_path / "plain")


@pytest.mark.parametrize(
    ("context", "kind"),
    [pytest.param(True, "sd2", marks=pytest.mark.slow), (False, "sd1"), (True, "sdxl")],
)
def test_inversion_then_sampling_with_the_source_prompt_returns_the_video(tmp_path, context, kind):
    config = EditConfig(
        tune_steps=3, num_inference_steps=20, window=2, overlap=0, context=context, inversion_iterations=11
    )
    made = editor(tmp_path, config, kind, frames=2)
    # of unit spread, as a trained VAE's; on the tiny one's faint latents a random network is no contraction
    made.latents = torch.randn(made.latents.shape, generator=torch.Generator().manual_seed(0))
    path = made.invert()
    back = made.sample("a red star", 1.0, path)
    assert (path[-1] - made.latents).abs().max() > 0.3
    assert torch.allclose(back, made.latents, atol=2e-2)


def test_xl_is_conditioned_as_by_its_pipeline():
    """Pooled text and sizes beside the states; of no prompt zeros, as the pipeline has it."""
    made = VideoEditor(tiny_sdxl(), moving(1, 2).video, "a red star", QUICK)
    states, empty, pooled, no_pooled = made.pipe.encode_prompt("a blue star", device="cpu")
    given, nothing = made._conditioning("a blue star"), made._conditioning(None)
    assert torch.equal(given.states, states) and torch.equal(nothing.states, empty)
    assert torch.equal(given.added["text_embeds"], pooled) and torch.equal(nothing.added["text_embeds"], no_pooled)
    assert given.added["time_ids"].tolist() == [[32, 32, 0, 0, 32, 32]]
    x = made.latents.float()
    with torch.no_grad():
        made.parts.temporal.layers.requires_grad_(False)
        first, second = made._network(x, 500, [nothing, given])
        with inflated(made.pipe.unet, made.parts.temporal, 2):
            alone = made.pipe.unet(
                x, 500, given.states.expand(2, -1, -1), added_cond_kwargs=given.repeated(2).added
            ).sample
    assert torch.allclose(second, alone, atol=1e-5) and not torch.allclose(first, second, atol=1e-3)


def test_an_edit_with_xl_whole(tmp_path):
    config = replace(QUICK, num_inference_steps=4, injection=0.5, mask_blending=0.5)
    made = editor(tmp_path, config, "sdxl", frames=6)
    plain = made.edit("a blue star")
    assert len(plain.frames) == 6 and plain.frames[0].size == made.video.size
    other = made.edit("a blue star", modulate=realign_video.modulate_video(1.0))
    assert any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(plain.frames, other.frames, strict=True))


def test_tuning_leaves_the_pipeline_alone(tmp_path):
    """That it lowers the loss of its video, and which, is in test_learning."""
    pipe = tiny_pipeline()
    pipe.unet.requires_grad_(True)  # as diffusers' own from_pretrained leaves it
    before = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    made = VideoEditor(pipe, moving(1, 4).video, "a red star", QUICK)
    asleep = copy.deepcopy(made.parts.temporal.state_dict())
    made.tune(tmp_path / "run", progress=False)
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in pipe.unet.parameters())  # as it was
    assert any(not torch.equal(v, before[k]) for k, v in made.parts.queries.items())
    assert any(not torch.equal(v, asleep[k]) for k, v in made.parts.temporal.state_dict().items())
    assert made.parts.relation is not None and made.parts.relation.out.weight.abs().max() > 0
    made.save(tmp_path / "saved")
    video = made.edit("a blue key")
    other = VideoEditor(pipe, moving(1, 4).video, "a red star", QUICK)
    other.load(tmp_path / "saved")
    again = other.edit("a blue key")
    assert all(psnr(a, b) > 35 for a, b in zip(video.frames, again.frames, strict=True))
    assert len(video) == 4 and video.size == (64, 64) and video.fps == 8
    assert all(torch.equal(v, before[k]) for k, v in pipe.unet.state_dict().items())
    louder = VideoEditor(pipe, moving(1, 4).video, "a red star", replace(QUICK, guidance_scale=5.0, injection=0.5))
    louder.tune(tmp_path / "run", progress=False)  # found there: sampling may differ
    assert all(torch.equal(v, made.parts.queries[k]) for k, v in louder.parts.queries.items())
    with pytest.raises(InputError, match="was begun with prompt='a red star', not 'a key'"):
        VideoEditor(pipe, moving(1, 4).video, "a key", QUICK).tune(tmp_path / "run")
    with pytest.raises(InputError, match="was begun with video="):
        VideoEditor(pipe, moving(2, 4).video, "a red star", QUICK).tune(tmp_path / "run")
    pipe.unet.half()
    with pytest.raises(InputError, match="are float16, too coarse"):
        VideoEditor(pipe, moving(1, 4).video, "a red star", QUICK).tune(tmp_path / "half")
    with pytest.raises(InputError, match="holds no tuned video"):
        other.load(tmp_path)
    pipe.unet.float()
    longer = VideoEditor(pipe, moving(1, 4).video, "a red star", replace(QUICK, tune_steps=2, shift="prior"))
    with pytest.raises(InputError, match="was tuned with tune_steps=3, not 2"):
        longer.load(tmp_path / "saved")
    for name in ("queries.safetensors", "tuned.json"):
        (tmp_path / "saved" / name).write_bytes(b"[1")
        with pytest.raises(
            InputError, match=r"tuned video in .*saved.* (cannot be read|is no valid JSON) .*tune it again"
        ):
            other.load(tmp_path / "saved")


def test_an_editor_that_is_tuned_again_is_tuned_whole(tmp_path):
    made = editor(tmp_path)
    before = copy.deepcopy(made.parts.temporal.state_dict())
    made.tune(tmp_path / "again", progress=False)
    assert any(not torch.equal(v, before[k]) for k, v in made.parts.temporal.state_dict().items())


def test_injection_and_windows_change_the_result_and_run(tmp_path):
    made = editor(tmp_path, frames=6)
    path = made.invert()
    plain = made.sample("a blue key", 3.0, path)
    made.config = replace(QUICK, injection=0.5)
    assert not torch.allclose(made.sample("a blue key", 3.0, path), plain, atol=1e-3)
    made.config = replace(QUICK, window=6)
    assert not torch.allclose(made.sample("a blue key", 3.0, path), plain, atol=1e-3)


def test_words_of_the_target_are_where_those_of_the_source_are():
    """Against explicit weights; a token without a counterpart keeps its own, and each pixel's weights sum to one."""
    frames, heads, pixels, tokens, width = 2, 2, 5, 4, 3
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(shape, generator=generator, dtype=torch.float64)  # noqa: E731
    q, k, v = (
        draw(3 * frames, heads, pixels, width),
        draw(3 * frames, heads, tokens, width),
        draw(3 * frames, heads, tokens, width),
    )
    state = VideoAttention(frames)
    state.inject, state.aligned = True, torch.tensor([0, 2, -1, 3])
    out = state.replaced(q, k, v)
    weights = (torch.einsum("bhpd,bhtd->bhpt", q, k) / width**0.5).softmax(-1)
    assert torch.allclose(out[:4], (weights @ v)[:4])
    mixed = torch.stack([weights[:2, ..., 0], weights[:2, ..., 2], weights[4:, ..., 2], weights[:2, ..., 3]], -1)
    assert torch.allclose(out[4:], mixed / mixed.sum(-1, keepdim=True) @ v[4:])


def test_tokens_are_aligned_with_what_they_replace():
    pipe = accord.load()
    words = pipe.tokenizer.tokenize
    source, target = "a red car on a gray background", "a big blue fish on a gray background"
    found = aligned_tokens(pipe, source, target).tolist()
    assert aligned_tokens(pipe, source, source).tolist() == list(range(pipe.tokenizer.model_max_length))
    a, b = (["<", *words(t), ">"] for t in (source, target))
    assert [a[i] for i in found[: len(b)]] == ["<", *words("a red red car on a gray background"), ">"]


def test_what_the_prompts_agree_about_is_found_and_held(tmp_path):
    """On the lab: the change is where the thing is, and the rest of the video is the source's own, bit for bit."""
    scene = moving(1, 4)
    made = VideoEditor(
        accord.load(), scene.video, scene.image_prompt, replace(QUICK, mask_blending=1.0, window=16, overlap=4)
    )
    target = edited(scene, "color", np.random.default_rng(0)).image_prompt
    path = made.invert()
    change = made.change_mask(target, path)
    assert change.shape == (4, 1, 16, 16) and change.min() == 0 and change.max() == 1
    for mask, frame in zip(change[:, 0], scene.frames, strict=True):
        x0, y0, x1, y1 = (round(v / 4) for v in frame.things[0].box)
        inside = torch.zeros(16, 16, dtype=torch.bool)
        inside[y0:y1, x0:x1] = True
        assert mask[inside].mean() > 5 * mask[~inside].mean()
    result = made.sample(target, 3.0, path)
    same = (change == 0).expand_as(result)
    assert torch.equal(result[same], made.latents[same]) and not torch.allclose(
        result[~same], made.latents[~same], atol=0.1
    )


def test_modulation_acts_in_every_frame_where_its_own_source_is(tmp_path, monkeypatch):
    made = editor(tmp_path, frames=6)
    path = made.invert()
    maps = realign_video.frame_maps(made, path)
    assert maps.shape == (6, 1, 16, 16) and maps.min() == 0 and maps.max() == 1
    plain = made.sample("a blue key", 3.0, path)
    before = dict(made.pipe.unet.attn_processors)
    modulate = realign_video.modulate_video(1.0)
    assert not torch.allclose(made.sample("a blue key", 3.0, path, modulate=modulate), plain, atol=1e-3)
    assert made.pipe.unet.attn_processors == before

    # a square that moves: every window has the masks of its own frames, and the tokens of the target's phrase
    squares = np.zeros((6, 1, 16, 16))
    for frame in range(6):
        squares[frame, 0, 4:8, 2 * frame : 2 * frame + 4] = 1
    monkeypatch.setattr(realign_video, "frame_maps", lambda editor, path: squares)
    found = modulate(made, "a blue key", path)
    assert sorted(found) == [w[0] for w in windows(6, 4, 1)]
    for first, state in found.items():
        assert np.array_equal(state.segments.masks[:, 0].numpy(), squares[first : first + 4, 0])
        words = made.pipe.tokenizer.convert_ids_to_tokens(made.pipe.tokenizer("a blue key").input_ids)
        assert 1 <= int(state.segments.tokens[0, 0].sum()) <= len(words) - 2
    # the first frame's region changes nothing where no region is
    monkeypatch.setattr(realign_video, "frame_maps", lambda editor, path: np.zeros_like(squares))
    assert torch.allclose(made.sample("a blue key", 3.0, path, modulate=modulate), plain, atol=1e-4)
    with pytest.raises(ValueError, match="modulation must be positive"):
        realign_video.modulate_video(-1.0)


def test_the_network_never_sees_more_than_a_window(tmp_path):
    made = editor(tmp_path, frames=10)
    seen = []
    hook = made.pipe.unet.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    made.edit("a blue key")
    hook.remove()
    assert max(seen) <= 2 * made.config.window


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("window", 0),
        ("overlap", 16),
        ("strength", 0.0),
        ("injection", 2.0),
        ("mask_blending", -0.1),
        ("tune_steps", -1),
        ("learning_rate", 0.0),
        ("num_inference_steps", 0),
    ],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must"):
        EditConfig(**{field: value})


# --- measures ------------------------------------------------------------------------------------------------------
def test_measures_on_videos_whose_truth_is_known():
    scene = moving(2)
    frames = scene.video.frames
    assert np.abs(track(frames) * 64 - scene.track).max() < 4  # the centre of a silhouette is not that of its box
    assert track_error(track(frames), track(frames)) == 0 and background_psnr(frames, frames) == 100
    still = Video((frames[0],) * 8, Fraction(8)).frames
    assert track_error(track(frames), track(still)) > 0.05
    assert flicker(frames) < 1e-3 and flicker([frames[0], Image.fromarray(255 - np.asarray(frames[0]))]) > 0.05
    rng = np.random.default_rng(0)
    noisy = [
        Image.fromarray(np.clip(np.asarray(f) + rng.normal(0, 5, (64, 64, 3)), 0, 255).astype(np.uint8)) for f in frames
    ]
    assert background_psnr(frames, noisy) == pytest.approx(10 * np.log10(255**2 / 25), abs=3)
    assert ssim(frames[0], frames[0]) == pytest.approx(1) and ssim(frames[0], noisy[0]) < 0.99
    mask = foreground(frames[0])
    x0, y0, x1, y1 = scene.frames[0].things[0].box
    assert mask[y0:y1, x0:x1].mean() > 0.3 and not mask[:y0].any() and not mask[y1:].any()
    found = score_video(noisy, scene.image_prompt, frames)
    assert set(found) == {
        "text_alignment",
        "temporal_consistency",
        "flicker",
        "track_error",
        "background_psnr",
        "background_ssim",
    }
    assert set(score_video(frames, scene.image_prompt)) == {"text_alignment", "temporal_consistency", "flicker"}
    with pytest.raises(InputError, match="the videos differ"):
        score_video(frames, "a star", frames[:4])
    with pytest.raises(InputError, match="no frame to score"):
        score_video([], "a star")


def test_damage_is_never_better_than_none():
    scene = moving(2)
    frames, prompt = scene.video.frames, scene.image_prompt
    empty = [Image.new("RGB", f.size, f.getpixel((0, 0))) for f in frames]
    shifted = [Image.fromarray(np.roll(np.asarray(f), 8, axis=1)) for f in frames]
    stray, flashing = [f.copy() for f in frames], [f.copy() for f in frames]
    for i, (a, b) in enumerate(zip(stray, flashing, strict=True)):
        a.paste("black", (0, 0, 12, 12))
        if i % 2:
            b.paste("black", (0, 0, 12, 12))
    own, moved, lost, spoilt, flickers = (
        score_video(f, prompt, frames) for f in (frames, shifted, empty, stray, flashing)
    )
    assert own["track_error"] == 0 < moved["track_error"] < lost["track_error"] == pytest.approx(0.5**0.5)
    assert (
        own["background_psnr"] == 100
        and spoilt["background_psnr"] < 25
        and spoilt["background_ssim"] < own["background_ssim"]
    )
    assert flickers["flicker"] > 10 * own["flicker"]
    assert "track_error" not in score_video(frames, prompt, empty)  # there is no motion to keep


def test_an_edit_written_with_even_sides_is_scored_against_its_source(tmp_path):
    source = [f.resize((63, 45)) for f in moving().video.frames]
    written = read_video(write_video(tmp_path / "a.mp4", source, 8))
    assert written.size == (64, 46) and score_video(written.frames, "a star", source)["background_psnr"] > 20


def test_half_precision_products_do_not_overflow():
    state = VideoAttention(1)
    state.aligned = torch.tensor([0, 1])
    query, key = (
        torch.full((2, 1, 2, 64), 40.0, dtype=torch.float16) for _ in range(2)
    )  # 64 * 40 * 40 is beyond float16
    assert torch.equal(state.replaced(query, key, torch.ones_like(query)), torch.ones_like(query))


def test_what_cannot_be_edited_is_named(tmp_path):
    pipe, video = tiny_pipeline(), moving(0, 4).video
    VideoEditor(pipe, video, "a star", replace(QUICK, context=False)).save(tmp_path)
    with pytest.raises(InputError, match="was tuned with context=False, not True"):
        VideoEditor(pipe, video, "a star", replace(QUICK, context=True)).load(tmp_path)
    pipe.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(InputError, match="predicts the picture itself"):
        VideoEditor(pipe, video, "a star", QUICK)
