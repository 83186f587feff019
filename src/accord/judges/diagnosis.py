"""`score`: how well a picture says a prompt, by phrase and by word, whatever kind of judge says so."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from PIL import Image

from accord.data.images import fit, to_rgb, to_tensor
from accord.judges.captioners import load_captioner
from accord.judges.clip import ClipScorer, load_clip
from accord.judges.protocol import Answers, Judge, check_scores
from accord.judges.questions import as_judge
from accord.prompts.phrases import phrases_of, read_ahead
from accord.reports.results import Scored
from accord.types import Alignment, InputError, Prompt


@torch.no_grad()
def align(
    images: torch.Tensor,
    prompts: Sequence[str | Prompt],
    judge: Judge | Answers,
    clip: ClipScorer | None = None,
    captions: bool = True,
    clip_images: torch.Tensor | None = None,
) -> list[Alignment]:
    """An Alignment per (picture, prompt).

    Args:
        images: [B,3,H,W] in 0..1.
        clip_images: the same pictures at another size, for CLIP.
        prompts: B prompts, raw or parsed.
        judge: of the words: a captioner by likelihoods, anything that answers questions (`Answers`) by those.
        clip: adds the CLIP similarity and the caption reward, if given.
        captions: whether to caption the pictures too (costs a generation each).

    Raises:
        InputError: for a prompt that is longer than the judge reads, or verdicts that are not finite.
    """
    judge = as_judge(judge)
    read_ahead(p for p in prompts if isinstance(p, str))
    parsed = [p if isinstance(p, Prompt) else phrases_of(p) for p in prompts]
    for text in dict.fromkeys(p.text for p in parsed):
        judge.check_length(text)
    verdicts = judge.verdicts(images, parsed)
    said = judge.caption(images) if captions else [""] * len(parsed)
    similarity, reward = _similarities(
        images if clip_images is None else clip_images, parsed, said if any(said) else None, clip
    )
    check_scores([s for s in (*similarity, *reward) if s is not None], "CLIP")
    out = []
    for i, (prompt, words) in enumerate(zip(parsed, verdicts, strict=True)):
        logs = [np.log(max(w.probability, 1e-12)) for w in words]
        overall = float(np.exp(np.mean(logs))) if logs else None
        reason = "" if logs else _why_unscored(prompt)
        out.append(Alignment(prompt, overall, words, said[i], reward[i], similarity[i], reason, judge.name))
    return out


def _why_unscored(prompt: Prompt) -> str:
    if prompt.language != "en":
        return f"the prompt is in another language ({prompt.language}), and only English is judged by word"
    if not prompt.words:
        return "the prompt names nothing that a picture could be checked for"
    return "the judge can judge none of its words"


def score(
    images: Image.Image | Sequence[Image.Image],
    prompts: str | Sequence[str],
    judge: Judge | Answers | None = None,
    clip: ClipScorer | None = None,
    batch_size: int = 16,
) -> list[Scored]:
    """How well each picture says its prompt, and which words it misses.

    Args:
        images: one PIL picture or several, of any size and mode.
        prompts: one prompt for all pictures, or one each.
        judge, clip: the embedded ones if None; `accord.load_judge` has others.
        batch_size: pictures that are judged at once; for a judge that takes them as they are, of those of one size that
            follow each other.

    Raises:
        InputError: if there are several prompts but not one for each picture, or a prompt is empty or too long.
    """
    pictures = [to_rgb(p) for p in ([images] if isinstance(images, Image.Image) else images)]
    texts = [prompts] * len(pictures) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(pictures):
        raise InputError(f"{len(pictures)} images were given with {len(texts)} prompts; give one prompt for each image")
    if not pictures:
        return []
    judge = as_judge(judge or load_captioner())
    clip = clip or load_clip()
    sizes = [(p.height, p.width) if judge.any_size else (judge.image_size, judge.image_size) for p in pictures]
    out = []
    for size, group in groupby(range(len(pictures)), key=lambda i: sizes[i]):
        rows = list(group)
        for start in range(0, len(rows), batch_size):
            part = [pictures[i] for i in rows[start : start + batch_size]]
            seen, by_clip = (torch.cat([fit(to_tensor(p), side) for p in part]) for side in (size, clip.image_size))
            asked = [texts[i] for i in rows[start : start + batch_size]]
            found = align(seen, asked, judge, clip, clip_images=by_clip)
            out += [Scored(p, a) for p, a in zip(part, found, strict=True)]
    return out


def _similarities(
    images: torch.Tensor, prompts: list[Prompt], said: list[str] | None, clip: ClipScorer | None
) -> tuple[list[float | None], list[float | None]]:
    nothing: list[float | None] = [None] * len(prompts)
    if clip is None:
        return nothing, nothing
    text = clip.text_features([p.text for p in prompts])
    similarity = (clip.image_features(images) * text).sum(-1).tolist()
    if said is None:
        return similarity, nothing
    return similarity, (clip.text_features([s or " " for s in said]) * text).sum(-1).tolist()
