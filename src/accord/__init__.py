"""Accord makes a text-to-image diffusion model do what its prompt says.

    import accord
    pipe = accord.load()                                   # the embedded lab, a folder, or a hub id
    result = accord.realign(pipe, "a red star to the left of a blue key", seeds=0)[0]
    result.save("out")

Importing this package loads neither torch nor diffusers; the names below are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "load": "accord.diffusion.pipelines",
    "generate": "accord.diffusion.generate",
    "score": "accord.judges.diagnosis",
    "load_captioner": "accord.judges.captioners",
    "load_judge": "accord.judges.loading",
    "load_clip": "accord.judges.clip",
    "load_detector": "accord.judges.detect",
    "JudgeCallback": "accord.judges.callback",
    "realign": "accord.methods.realign.fine",
    "Segments": "accord.methods.realign.modulation",
    "modulated": "accord.methods.realign.modulation",
    "Opened": "accord.diffusion.opened",
    "remove_lora": "accord.diffusion.lora",
    "RealignConfig": "accord.methods.realign.config",
    "Routing": "accord.methods.realign.routing",
    "Budget": "accord.methods.realign.routing",
    "train_reward": "accord.methods.tune.train",
    "TuneConfig": "accord.methods.tune.config",
    "Tuned": "accord.methods.tune.train",
    "invert": "accord.methods.invert.reader",
    "train_inverter": "accord.methods.invert.fit",
    "Bank": "accord.methods.invert.bank",
    "Inverter": "accord.methods.invert.inverter",
    "Inverted": "accord.methods.invert.reader",
    "InversionScore": "accord.methods.invert.alignment",
    "ContextDiffPipeline": "accord.methods.context.pipeline",
    "generate_with_context": "accord.methods.context.sampling",
    "load_context": "accord.methods.context.pipeline",
    "train_context": "accord.methods.context.train",
    "ContextTrainConfig": "accord.methods.context.config",
    "VideoEditor": "accord.methods.video.editing",
    "EditConfig": "accord.methods.video.config",
    "Video": "accord.data.video",
    "read_video": "accord.data.video",
    "write_video": "accord.data.video",
    "make_rewards": "accord.rewards.composed",
    "Composed": "accord.rewards.composed",
    "Reward": "accord.rewards.registry",
    "parse": "accord.prompts.parser",
    "Parse": "accord.prompts.parse",
    "load_sentence": "accord.rewards.sentence",
    "Alignment": "accord.types",
    "InputError": "accord.types",
    "Prompt": "accord.types",
    "Region": "accord.types",
    "Realigned": "accord.reports.results",
    "Scored": "accord.reports.results",
}
__all__ = [*_HOME, "__version__"]

if TYPE_CHECKING:
    from accord.data.video import Video as Video
    from accord.data.video import read_video as read_video
    from accord.data.video import write_video as write_video
    from accord.diffusion.generate import generate as generate
    from accord.diffusion.lora import remove_lora as remove_lora
    from accord.diffusion.opened import Opened as Opened
    from accord.diffusion.pipelines import load as load
    from accord.judges.callback import JudgeCallback as JudgeCallback
    from accord.judges.captioners import load_captioner as load_captioner
    from accord.judges.clip import load_clip as load_clip
    from accord.judges.detect import load_detector as load_detector
    from accord.judges.diagnosis import score as score
    from accord.judges.loading import load_judge as load_judge
    from accord.methods.context.config import ContextTrainConfig as ContextTrainConfig
    from accord.methods.context.pipeline import ContextDiffPipeline as ContextDiffPipeline
    from accord.methods.context.pipeline import load_context as load_context
    from accord.methods.context.sampling import generate_with_context as generate_with_context
    from accord.methods.context.train import train_context as train_context
    from accord.methods.invert.alignment import InversionScore as InversionScore
    from accord.methods.invert.bank import Bank as Bank
    from accord.methods.invert.fit import train_inverter as train_inverter
    from accord.methods.invert.inverter import Inverter as Inverter
    from accord.methods.invert.reader import Inverted as Inverted
    from accord.methods.invert.reader import invert as invert
    from accord.methods.realign.config import RealignConfig as RealignConfig
    from accord.methods.realign.fine import realign as realign
    from accord.methods.realign.modulation import Segments as Segments
    from accord.methods.realign.modulation import modulated as modulated
    from accord.methods.realign.routing import Budget as Budget
    from accord.methods.realign.routing import Routing as Routing
    from accord.methods.tune.config import TuneConfig as TuneConfig
    from accord.methods.tune.train import Tuned as Tuned
    from accord.methods.tune.train import train_reward as train_reward
    from accord.methods.video.config import EditConfig as EditConfig
    from accord.methods.video.editing import VideoEditor as VideoEditor
    from accord.prompts.parse import Parse as Parse
    from accord.prompts.parser import parse as parse
    from accord.reports.results import Realigned as Realigned
    from accord.reports.results import Scored as Scored
    from accord.rewards.composed import Composed as Composed
    from accord.rewards.composed import make_rewards as make_rewards
    from accord.rewards.registry import Reward as Reward
    from accord.rewards.sentence import load_sentence as load_sentence
    from accord.types import Alignment as Alignment
    from accord.types import InputError as InputError
    from accord.types import Prompt as Prompt
    from accord.types import Region as Region


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name == "metrics":  # a module, which needs an extra
        return importlib.import_module("accord.metrics")
    raise AttributeError(f"module 'accord' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
