"""Stable Diffusion XL whose call repairs its pictures, for `custom_pipeline=` of diffusers. See `pipeline_accord.py`."""

from accord.methods.realign.pipeline import RealignMixin
from diffusers import StableDiffusionXLPipeline


class AccordXLPipeline(RealignMixin, StableDiffusionXLPipeline):
    """`accord.realign` as a call. See `RealignMixin.__call__` for its arguments."""
