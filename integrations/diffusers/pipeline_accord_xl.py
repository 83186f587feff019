"""Stable Diffusion XL whose call repairs its pictures, for `custom_pipeline=` of diffusers.

It is used as `pipeline_accord.py` is.
"""

from diffusers import StableDiffusionXLPipeline

from accord.methods.realign.pipeline import RealignMixin


class AccordXLPipeline(RealignMixin, StableDiffusionXLPipeline):
    """`accord.realign` as a call. See `RealignMixin.__call__` for its arguments."""
