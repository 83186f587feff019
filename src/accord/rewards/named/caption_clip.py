"""The caption reward by CLIP's text tower, in place of a sentence embedder."""

from __future__ import annotations

from accord.judges.captioners import Captioner
from accord.judges.clip import ClipScorer
from accord.rewards.named.caption import CaptionReward
from accord.rewards.registry import reward


@reward("caption-clip", needs=("captioner", "clip"))
def caption_clip(captioner: Captioner, clip: ClipScorer) -> CaptionReward:
    """`CaptionReward` with T = CLIP's text tower."""
    return CaptionReward(captioner, clip.text_features)
