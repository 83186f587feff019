"""The lab's flow-matching denoiser: the finished one learns to say e - x0 at x_t = (1 - s) x0 + s e.

Both processes mix the same picture with the same noise. Where the ratio of the two is the same, their x_t differ in
length alone, and velocity is a sum of x_t and v. So the weights that the denoiser has are a good place to begin.
Scenes, captions, contest and VAE stay, and so does how often each ratio is trained; the text tower is tuned along.

Any pipeline of diffusers runs it: the scheduler is the flow of DPM++ at its first order, which is Euler's step.
"""

from __future__ import annotations

from pathlib import Path

from diffusers import DPMSolverMultistepScheduler

from accord_lab.recipes import denoiser

STEPS = 3000


def scheduler() -> DPMSolverMultistepScheduler:
    return DPMSolverMultistepScheduler(
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        solver_order=1,
        final_sigmas_type="zero",
        flow_shift=1.0,
    )


def train(
    folder: Path, steps: int | None = None, seed: int = 0, device: str = "cpu", start: Path | None = None
) -> None:
    """Train into `folder/pipeline`, from the pipeline in the lab folder `start`."""
    denoiser.train(folder, steps or STEPS, seed, device, start, process=scheduler(), name="flow")
