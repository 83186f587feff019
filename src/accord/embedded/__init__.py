"""The models of the lab, which come with the package: where they lie, the side of their pictures, and the settings that
were found to work with them where they differ from a method's own defaults. `accord train lab` makes them anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
PIPELINE, LORA, CAPTIONER, CLIP, INVERTER = (
    FOLDER / part
    for part in (
        "pipeline",
        "tuned",  # what reward tuning made of the pipeline
        "captioner",
        "clip",
        "inverter",
    )
)
SIDE = 64  # pixels

# Of reward tuning (`TuneConfig.of`), strategy by strategy. On latents this small layout is decided between t = 850 and
# 600, and the published steps 30..39 of 40 come after that.
REFL_RATE = 7e-4
TUNING: dict[str, dict[str, Any]] = {
    "refl": {
        "num_inference_steps": 12,
        "stop_from": 0.2,
        "stop_until": 0.67,
        "learning_rate": REFL_RATE,
        "reward_weight": 0.5,
    },
    "sft": {"learning_rate": REFL_RATE},  # the control of what ships
    # these two are published with their own loss alone; 0.1 of it beside the denoising term is next to nothing
    "raft": {"num_inference_steps": 20, "reward_weight": 1.0},
    "grpo": {"num_inference_steps": 20, "reward_weight": 1.0},
    "nft": {"num_inference_steps": 10},
    "awm": {"num_inference_steps": 10},
}
