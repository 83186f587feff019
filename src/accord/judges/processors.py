"""Processors of judges and detectors: text and picture to what the model is given."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from accord.diffusion.loading import check_folder, check_moments, kind_of, loading
from accord.types import InputError, a_kind


def check_kind(model: str, what: str, kinds: Collection[str], use: str) -> str:
    """The `model_type` of a model, which is one of `kinds`.

    Args:
        what: what it is called in an error.
        use: what to use, if it is another.

    Raises:
        InputError: for a model of another kind, or that cannot be read.
    """
    kind = kind_of(model, what)
    if kind not in kinds:
        raise InputError(f"{what} is {a_kind(kind)} model; use {use}")
    return kind


def load_image_processor(kind: Any, model: str, what: str) -> Any:
    """The image processor of a model, of a class that needs PIL alone.

    Raises:
        InputError: for one that cannot be read, or whose means and deviations are none.
    """
    with loading(what):
        processor = kind.from_pretrained(model)
    check_moments(processor.image_mean, processor.image_std, what)
    return processor


def load_processor(model: str, what: str) -> Any:
    """The processor of an image-text-to-text model of transformers, with an image processor that needs PIL alone.

    A processor that also reads videos is made without that half: it needs torchvision, and no picture does.

    Raises:
        InputError: for one that cannot be read.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING
    from transformers.utils import is_torchvision_available

    check_folder(model, what)
    with loading(what):
        if is_torchvision_available():
            processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
            processor.image_processor = AutoImageProcessor.from_pretrained(
                model, trust_remote_code=False, backend="pil"
            )
            return processor
        config = AutoConfig.from_pretrained(model, trust_remote_code=False)
        kind = PROCESSOR_MAPPING.get(type(config), None)
        if kind is None:
            raise InputError(f"{what} has no processor of text and pictures; use a chat model that sees pictures")
        return of_pictures(kind).from_pretrained(model, trust_remote_code=False)


def of_pictures(kind: type) -> Any:
    """The class of a processor without its video half; the class itself if it has none."""
    if "video_processor" not in kind.get_attributes():  # type: ignore[attr-defined]
        return kind

    class OfPictures(kind):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

        @classmethod
        def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **settings: Any) -> Any:
            return super().from_args_and_dict(args, processor_dict | {"video_processor": None}, **settings)

    return OfPictures
