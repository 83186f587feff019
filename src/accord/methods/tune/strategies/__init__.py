"""Ways from a reward to a loss, one file each. RealignDiff's coarse stage is `refl`; the others stand beside it.

A strategy is a frozen dataclass of its knobs with a `loss`, registered under a name; a file in this folder is enough.
Its loss takes `Rollouts` (opened, pictures, output, decode, judge, denoising_loss) and a `Batch` (prompts with a seed
each). Rewards are normalised here: 0 is the untuned pipeline's mean, 1 its spread.

Letters in shapes: B pictures; a state is what the pipeline's loop denoises, [B,...].
"""

import importlib
import pkgutil

from accord.methods.tune.registry import STRATEGIES

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["STRATEGIES"]
