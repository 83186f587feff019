"""Edit: a video changed by words, its frames side by side with those of the source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Annotated, Any

from pydantic import BaseModel, Field

from accord.studio.rooms.asked import (
    Asked,
    Choice,
    Guidance,
    Identity,
    Seed,
    Share,
    Text,
    check_prompt,
    file_word,
    line,
    options,
)
from accord.studio.settings import Settings
from accord.studio.work import Work
from accord.types import InputError

SHOWN = 512  # pixels of the longer side of a frame that the page shows


class EditRequest(Asked):
    """A video to be changed.

    Attributes:
        source, target: what it shows, and what it is to show.
        frames: of it that are taken.
        tune_steps, steps, guidance: the model's usual ones if None.
    """

    upload: Identity
    source: Text
    target: Text
    frames: Annotated[int, Field(ge=1, le=64, strict=True)] = 16
    tune_steps: Annotated[int | None, Field(ge=0, le=500, strict=True)] = None
    steps: Annotated[int | None, Field(ge=2, le=100, strict=True)] = None
    guidance: Guidance = None
    injection: Share = 0.5
    mask_blending: Share = 0.7
    seed: Seed = 0
    model: Choice = ""


class Edit:
    """`accord edit`."""

    name = "edit"
    request: type[BaseModel] = EditRequest

    def check(self, request: EditRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]) -> None:
        settings.chosen(request.model)
        if upload(request.upload)["kind"] != "video":
            raise InputError("this upload is a picture; drop a video here, or go to Read")
        check_prompt("source prompt", request.source, settings)
        check_prompt("target prompt", request.target, settings)

    def command(
        self, request: EditRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]
    ) -> list[str]:
        about = upload(request.upload)
        name = file_word(about["name"])
        told = options(
            source=request.source,
            target=request.target,
            frames=f"0:{min(request.frames, about['frames'])}",
            tune_steps=request.tune_steps,
            steps=request.steps,
            guidance=request.guidance,
            injection=request.injection,
            mask_blending=request.mask_blending,
            seed=request.seed,
        )
        words = [w for w in settings.words(request.model) if w not in ("--lora", "lab")]
        return [line("accord", "edit", name, *told, *words, "--out", "edited.mp4")]

    def run(self, work: Work) -> dict[str, Any]:
        import shutil

        from accord.data.video import read_video, write_video
        from accord.methods.video.config import EditConfig
        from accord.methods.video.editing import VideoEditor
        from accord.rewards.video import score_video
        from accord_lab.scenes.ask import still

        asked = work.request
        place = next((work.settings.folder / "uploads" / asked.upload).glob("original*"), None)
        if place is None:
            raise InputError("the uploaded video is not kept any more; drop it again")
        work.stage("loading the models")
        lab = work.settings.is_lab(asked.model)
        source, target = (still(asked.source), still(asked.target)) if lab else (asked.source, asked.target)
        given = {
            "tune_steps": asked.tune_steps,
            "num_inference_steps": asked.steps,
            "guidance_scale": asked.guidance,
        }
        usual = {} if lab else dict(work.settings.edit_usual)
        config = EditConfig(
            **usual | {k: v for k, v in given.items() if v is not None},
            injection=asked.injection,
            mask_blending=asked.mask_blending,
            seed=asked.seed,
        )
        video = read_video(place, 0, asked.frames)
        pipe = work.models.pipe(asked.model)
        editor = VideoEditor(pipe, video, source, config)
        shown = [_small(frame) for frame in video.frames]
        before = [work.write(f"frames/{i:03d}-before.png", frame) for i, frame in enumerate(shown)]
        work.told("frames", {"before": before, "fps": float(video.fps)})
        if config.tune_steps:
            work.stage("tuning to the video")
            editor.tune(work.folder / "tuning", progress=False)
        work.stage("inverting")
        path = editor.invert()
        work.stage("editing")
        edited = editor.edit(target, path)
        after = [work.write(f"frames/{i:03d}-after.png", _small(frame)) for i, frame in enumerate(edited.frames)]
        changed = [
            work.write(f"frames/{i:03d}-changed.png", _changed(a, b))
            for i, (a, b) in enumerate(zip(shown, map(_small, edited.frames), strict=True))
        ]
        work.stage("measuring")
        measured = score_video(edited.frames, target, video.frames, work.models.clip(asked.model))
        write_video(work.folder / "edited.mp4", edited.frames, Fraction(edited.fps))
        shutil.rmtree(work.folder / "tuning", ignore_errors=True)
        return {
            "before": before,
            "after": after,
            "changed": changed,
            "fps": float(video.fps),
            "measured": {k: round(float(v), 4) for k, v in measured.items()},
            "video": "edited.mp4",
            "source": source,
            "target": target,
        }


def _small(frame: Any) -> Any:
    frame = frame.convert("RGB")
    frame.thumbnail((SHOWN, SHOWN))
    return frame


def _changed(before: Any, after: Any) -> Any:
    """How far each pixel has changed: what stayed in grey, what changed in orange."""
    import numpy as np
    from PIL import Image

    one, other = (np.asarray(f, dtype=np.float32) / 255 for f in (before, after))
    share = np.clip(2 * np.abs(one - other).mean(-1, keepdims=True), 0, 1)
    grey = 0.35 + 0.5 * other.mean(-1, keepdims=True)
    mixed = (1 - share) * grey + share * np.asarray([1.0, 0.45, 0.0], dtype=np.float32)
    return Image.fromarray((mixed * 255).round().astype(np.uint8))
