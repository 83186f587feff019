"""Stable Diffusion 1 and 2 whose call repairs its pictures, for `custom_pipeline=` of diffusers.

pipe = DiffusionPipeline.from_pretrained(MODEL, custom_pipeline="pipeline_accord.py", trust_remote_code=True)
pipe("a red star to the left of a blue key", seeds=1, judge=JUDGE).images[0]
"""

from diffusers import StableDiffusionPipeline

from accord.methods.realign.pipeline import RealignMixin


class AccordPipeline(RealignMixin, StableDiffusionPipeline):
    """`accord.realign` as a call. See `RealignMixin.__call__` for its arguments."""
