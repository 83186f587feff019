"""Ways from a reward to a loss, one file each. RealignDiff's coarse stage is `refl`; the others stand beside it.

A strategy takes `Rollouts` (start, sample, decode, judge, denoising_loss) and a `Batch` (prompts with a seed each). It
returns the loss, whose gradient reaches the adapter, and scalars to log. Rewards are normalised here: 0 is the untuned
pipeline's mean, 1 its spread.

Letters in shapes: B pictures, C H W of the latents.
"""

from accord.methods.tune.registry import STRATEGIES
from accord.methods.tune.strategies import draft, grpo, raft, refl, sft

__all__ = ["STRATEGIES", "draft", "grpo", "raft", "refl", "sft"]
