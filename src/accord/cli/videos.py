"""`accord edit`: a video, changed by words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from accord.cli.options import (
    HUB_CLIP,
    AsJson,
    Device,
    Model,
    ModelConfig,
    Seed,
    Variant,
    check_file,
    check_said,
    checked,
    emit,
    frame_range,
    is_same,
    judge_of,
    leave_out,
    pick_device,
    quiet,
    read_by_the_lab,
    said,
    say_lab_only,
)
from accord.types import InputError

# of Tune-A-Video and ContextDiff, with a rate that suits the few weights tuned; EditConfig's own are the lab's
STABLE_DIFFUSION: dict[str, Any] = {
    "tune_steps": 200,
    "learning_rate": 3e-5,
    "num_inference_steps": 50,
    "guidance_scale": 7.5,
}


def edit(
    video: Annotated[Path, typer.Argument(help="mp4, webm, gif, or a folder of frames.")],
    source: Annotated[str, typer.Option(help="What the video shows.")],
    target: Annotated[str, typer.Option(help="What it is to show.")],
    out: Annotated[Path, typer.Option(help="mp4, webm or gif to write, or a folder for frames.")] = Path(
        "out/edited.mp4"
    ),
    frames: Annotated[str | None, typer.Option(help="START:STOP, a range of the video's frames.")] = None,
    model: Model = None,
    variant: Variant = None,
    model_config: ModelConfig = None,
    context: Annotated[
        bool,
        typer.Option(
            "--context/--no-context",
            help="ContextDiff; without it, and with --injection 0 --mask-blending 0, this is Tune-A-Video.",
        ),
    ] = True,
    tune_steps: Annotated[
        int | None, typer.Option(help="Steps of one-shot tuning; if not given 60, with --model 200.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of the tuning; if not given 1e-3, with --model 3e-5.")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=2, max=1000, help="Denoising steps; if not given 25, with --model 50.")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; if not given 5, with --model 7.5.")] = None,
    strength: Annotated[float, typer.Option(help="Share of the steps that is inverted and sampled again.")] = 1.0,
    injection: Annotated[
        float, typer.Option(help="First share of the steps in which the source's attention holds the layout.")
    ] = 0.5,
    mask_blending: Annotated[
        float,
        typer.Option(help="First share of the steps in which the source is put back wherever the two prompts agree."),
    ] = 0.7,
    modulation: Annotated[
        float, typer.Option(help="Weight of realign's modulation in every frame; 0 leaves it out.")
    ] = 0.0,
    window: Annotated[int, typer.Option(help="Frames that the network sees at once.")] = 16,
    similarity: Annotated[
        str | None,
        typer.Option(
            "--clip",
            help=f"CLIP that measures the edit, folder or hub id; if not given lab, and with --model {HUB_CLIP}.",
        ),
    ] = None,
    tuned: Annotated[
        Path | None, typer.Option(help="Folder for the tuned parts; a tuning found there is used or resumed.")
    ] = None,
    seed: Seed = 0,
    device: Device = None,
    as_json: AsJson = False,
) -> None:
    """Edit a video with words: the thing changes, motion and background are meant to stay."""
    quiet()
    import tempfile

    import accord
    from accord.data.video import check_video_path, read_video, write_video
    from accord.diffusion.pipelines import UNETS, check_prompts
    from accord.files import check_writable, only_writer
    from accord.methods.realign.video import modulate_video
    from accord.methods.video.config import EditConfig
    from accord.methods.video.editing import VideoEditor
    from accord.reports.gallery import gallery_beside, of_frames, write_gallery
    from accord.rewards.video import score_video
    from accord_lab.scenes.ask import still

    given = {
        "tune_steps": tune_steps,
        "learning_rate": learning_rate,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
    }
    usual = {} if model is None else STABLE_DIFFUSION
    config = checked(
        EditConfig,
        {"num_inference_steps": "steps", "guidance_scale": "guidance"},
        **usual | {k: v for k, v in given.items() if v is not None},
        context=context,
        strength=strength,
        injection=injection,
        mask_blending=mask_blending,
        window=window,
        overlap=min(4, window - 1),
        seed=seed,
    )
    modulate = checked(modulate_video, weight=modulation) if modulation else None
    if not config.tune_steps:
        leave_out("with --tune-steps 0, which makes nothing to keep", tuned=tuned, learning_rate=learning_rate)
        leave_out("with --tune-steps 0", **said("context", "seed"))  # what is not tuned adds nothing
    if model is None:  # its text encoder knows no motion
        source, target = still(source), still(target)
    check_said(source, target)
    pick_device(device)
    check_video_path(out)
    if out.suffix:
        check_file(out)
    if is_same(out, video):
        raise InputError(f"--out {str(out)!r} is the video itself; give another name")
    if (
        tuned is not None
        and not out.suffix
        and any(is_same(out, place) for place in (tuned, *tuned.absolute().parents))
    ):
        raise InputError(f"--tuned {str(tuned)!r} is in the folder --out, which is for frames alone; give another")
    check_writable(out.parent)
    check_writable(gallery_beside(out))
    if tuned is not None:
        check_writable(tuned)
    first, last = frame_range(frames)
    taken = read_video(video, first, last)
    with only_writer(out.parent, out.name):
        pipe = accord.load(model, device, classes=UNETS, variant=variant, model_config=model_config)
        check_prompts(pipe, [source, target])  # before the tuning, like what measures the edit
        judge = accord.load_clip(judge_of(similarity, model, HUB_CLIP), str(pipe.device))
        editor = VideoEditor(pipe, taken, source, config)
        say_lab_only(taken.size, model, "--model")
        with tempfile.TemporaryDirectory() as scratch:
            editor.tune(tuned or scratch, progress=not as_json)
        if tuned is not None:
            editor.save(tuned)
        result = editor.edit(target, progress=not as_json, modulate=modulate)
        write_video(out, result.frames, result.fps)
        place = gallery_beside(out)
        index = write_gallery(place, of_frames(place, target, taken.frames, result.frames), "accord edit")
    measured = score_video(result.frames, target, taken.frames, judge)
    measured |= read_by_the_lab(result.frames, target) if model is None else {}
    text = "\n".join(
        [f"written to {out}", f"frames, before and after: {index}", *(f"  {k} {v:.4f}" for k, v in measured.items())]
    )
    emit(
        as_json,
        {"out": str(out), "frames": len(result), "fps": float(result.fps), "gallery": str(index), **measured},
        text,
    )
