"""Accord in ComfyUI: a thin layer, which turns what nodes are given into calls of `accord`.

Pictures are float tensors [B,H,W,C] in 0..1 there, and [B,3,H,W] here. Nothing of ComfyUI is imported but the list of
its checkpoints, if it is there. What is heavy is imported when a node runs, so that ComfyUI starts as fast as before.
"""

from __future__ import annotations

import json
from typing import Any

LAB = "lab"
PIPELINE, JUDGE = "ACCORD_PIPELINE", "ACCORD_JUDGE"
DEVICES, DTYPES = ["auto", "cpu", "cuda"], ["float32", "float16", "bfloat16"]
MODES = ["new_seed", "same_seed", "renoise"]
MOST_SEED = 2**63 - 1  # of accord


class _LoadsPipeline:
    CATEGORY = "accord/loaders"
    RETURN_TYPES = (PIPELINE,)
    RETURN_NAMES = ("pipeline",)
    FUNCTION = "load"

    @staticmethod
    def loaded(model: str | None, device: str, dtype: str, lora: str, model_config: str = "") -> tuple[Any]:
        """The pipeline as the node gives it; an empty text is nothing."""
        import torch

        import accord

        more = {"lora": lora.strip() or None, "model_config": model_config.strip() or None}
        return (accord.load(model, None if device == "auto" else device, getattr(torch, dtype), **more),)


class AccordLoadPipeline(_LoadsPipeline):
    """A diffusers pipeline, by what `accord.load` takes."""

    DESCRIPTION = "Loads a diffusers pipeline: a folder, a hub id, a .safetensors file, or 'lab' for the embedded one."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "model": ("STRING", {"default": LAB}),
                "device": (DEVICES, {"default": "auto"}),
                "dtype": (DTYPES, {"default": "float32"}),
            },
            "optional": {
                "lora": ("STRING", {"default": "", "tooltip": "folder, file or hub id of an adapter to put on"}),
            },
        }

    def load(self, model: str, device: str, dtype: str, lora: str = "") -> tuple[Any]:
        return self.loaded(None if model.strip() in ("", LAB) else model.strip(), device, dtype, lora)


class AccordLoadCheckpoint(_LoadsPipeline):
    """The pipeline of a checkpoint that ComfyUI has: the same file that its own loader reads."""

    DESCRIPTION = "Loads a checkpoint of ComfyUI's folder as a diffusers pipeline, from the same file."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "ckpt_name": (_checkpoints(), {}),
                "device": (DEVICES, {"default": "auto"}),
                "dtype": (DTYPES, {"default": "float16"}),
            },
            "optional": {
                "model_config": (
                    "STRING",
                    {"default": "", "tooltip": "folder or hub id of a pipeline of its kind, for its configuration"},
                ),
                "lora": ("STRING", {"default": ""}),
            },
        }

    def load(self, ckpt_name: str, device: str, dtype: str, model_config: str = "", lora: str = "") -> tuple[Any]:
        import folder_paths  # of ComfyUI

        path = folder_paths.get_full_path("checkpoints", ckpt_name)
        if path is None:
            raise ValueError(f"the checkpoint {ckpt_name!r} is not in ComfyUI's folders; choose another")
        return self.loaded(str(path), device, dtype, lora, model_config)


class AccordLoadJudge:
    """A judge, by what `accord.load_judge` takes."""

    CATEGORY = "accord/loaders"
    DESCRIPTION = "Loads what judges pictures: a BLIP, a chat model that sees pictures, a CLIP, or 'lab'."
    RETURN_TYPES = (JUDGE,)
    RETURN_NAMES = ("judge",)
    FUNCTION = "load"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"model": ("STRING", {"default": LAB}), "device": (DEVICES, {"default": "auto"})},
            "optional": {"calibration": ("STRING", {"default": "", "tooltip": "file that accord calibrated it by"})},
        }

    def load(self, model: str, device: str, calibration: str = "") -> tuple[Any]:
        import accord
        from accord.diffusion.pipelines import default_device

        place = default_device() if device == "auto" else device
        return (accord.load_judge(model.strip() or LAB, place, calibration=calibration.strip() or None),)


class AccordScore:
    """How well pictures say a prompt. Takes any IMAGE: of ComfyUI's own samplers, or loaded."""

    CATEGORY = "accord"
    DESCRIPTION = "Judges each word of a prompt in each picture."
    RETURN_TYPES = ("FLOAT", "STRING", "STRING")
    RETURN_NAMES = ("score", "missed", "report")
    FUNCTION = "score"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {"required": {"image": ("IMAGE", {}), "prompt": _prompt(), "judge": (JUDGE, {})}}

    def score(self, image: Any, prompt: str, judge: Any) -> tuple[float, str, str]:
        """The mean score of the pictures (NaN if none can be judged), the words that are missed, and all as JSON."""
        import accord
        from accord.reports.gallery import RIGHT

        found = [scored.alignment for scored in accord.score(_to_pil(image), prompt, judge)]
        scores = [a.overall for a in found if a.overall is not None]
        missed = [w.word.text for a in found for w in a.words if w.probability < RIGHT]
        mean = sum(scores) / len(scores) if scores else float("nan")
        return mean, ", ".join(dict.fromkeys(missed)), _json([a.to_dict() for a in found])


class AccordRealign:
    """Pictures of a prompt, repaired: generated, judged, and drawn again with the attention led."""

    CATEGORY = "accord"
    DESCRIPTION = "Generates pictures of a prompt and repairs what they miss."
    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("image", "before", "report")
    FUNCTION = "realign"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {
                "pipeline": (PIPELINE, {}),
                "judge": (JUDGE, {}),
                "prompt": _prompt(),
                "seed": ("INT", {"default": 0, "min": 0, "max": MOST_SEED, "control_after_generate": True}),
                "count": (
                    "INT",
                    {"default": 1, "min": 1, "max": 64, "tooltip": "pictures, of seeds one after another"},
                ),
                "rounds": ("INT", {"default": 2, "min": 0, "max": 10}),
                "mode": (MODES, {"default": MODES[0]}),
            },
            "optional": {
                "negative_prompt": ("STRING", {"default": "", "multiline": True}),
                "steps": ("INT", {"default": 0, "min": 0, "max": 1000, "tooltip": "0: the pipeline's own"}),
                "guidance": (
                    "FLOAT",
                    {"default": -1.0, "min": -1.0, "max": 100.0, "step": 0.1, "tooltip": "-1: the pipeline's own"},
                ),
                "width": ("INT", {"default": 0, "min": 0, "max": 8192, "step": 8, "tooltip": "0: the pipeline's own"}),
                "height": ("INT", {"default": 0, "min": 0, "max": 8192, "step": 8, "tooltip": "0: the pipeline's own"}),
            },
        }

    def realign(
        self,
        pipeline: Any,
        judge: Any,
        prompt: str,
        seed: int,
        count: int,
        rounds: int,
        mode: str,
        negative_prompt: str = "",
        steps: int = 0,
        guidance: float = -1.0,
        width: int = 0,
        height: int = 0,
    ) -> tuple[Any, Any, str]:
        """The repaired pictures, those before, and what was found as JSON."""
        import accord

        found = accord.realign(
            pipeline,
            prompt,
            [(seed + i) % (MOST_SEED + 1) for i in range(count)],
            config=accord.RealignConfig(rounds=rounds, mode=mode),
            captioner=judge,
            num_inference_steps=steps or None,
            guidance_scale=None if guidance < 0 else guidance,
            negative_prompt=negative_prompt,
            call={name: side for name, side in (("height", height), ("width", width)) if side},
            captions=False,
        )
        after, before = (_from_pil([getattr(r, name) for r in found]) for name in ("after", "before"))
        return after, before, _json([r.to_dict() for r in found])


class AccordReadPrompt:
    """Prompts that are read back from pictures."""

    CATEGORY = "accord"
    DESCRIPTION = "Reads back which prompt made a picture, by an inverter that was trained on pictures of its pipeline."
    RETURN_TYPES = ("STRING", "STRING")
    RETURN_NAMES = ("prompt", "report")
    FUNCTION = "read"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        return {
            "required": {"image": ("IMAGE", {})},
            "optional": {
                "inverter": (
                    "STRING",
                    {"default": LAB, "tooltip": "folder that accord train inverter wrote, or 'lab'"},
                ),
                "bank": ("STRING", {"default": "", "multiline": True, "tooltip": "prompts to choose from, one a line"}),
            },
        }

    def read(self, image: Any, inverter: str = LAB, bank: str = "") -> tuple[str, str]:
        """The prompts, one a line, and all that was read as JSON."""
        import accord

        own = None if inverter.strip() in ("", LAB) else accord.Inverter.from_pretrained(inverter.strip())
        prompts = [line.strip() for line in bank.splitlines() if line.strip()]
        found = accord.invert(_to_pil(image), own, prompts or None)
        return "\n".join(f.prompt for f in found), _json([f.to_dict() for f in found])


def _prompt() -> tuple[str, dict[str, Any]]:
    return "STRING", {"default": "", "multiline": True, "dynamicPrompts": False}


def _checkpoints() -> list[str]:
    """The names of ComfyUI's checkpoints; none outside of ComfyUI."""
    try:
        import folder_paths
    except ModuleNotFoundError:
        return []
    return [n for n in folder_paths.get_filename_list("checkpoints") if n.endswith(".safetensors")]


def _to_pil(image: Any) -> list[Any]:
    """[B,H,W,C] in 0..1 to PIL pictures, with transparency laid on white."""
    from accord.data.images import to_pil

    pixels = image.permute(0, 3, 1, 2).float().clamp(0, 1)
    if pixels.shape[1] == 1:
        pixels = pixels.expand(-1, 3, -1, -1)
    if pixels.shape[1] == 4:
        pixels, opacity = pixels[:, :3], pixels[:, 3:]
        pixels = pixels * opacity + (1 - opacity)
    return to_pil(pixels)


def _from_pil(images: list[Any]) -> Any:
    """PIL pictures to [B,H,W,3] in 0..1."""
    from accord.data.images import to_tensor

    return to_tensor(images).permute(0, 2, 3, 1).contiguous()


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)


NODE_CLASS_MAPPINGS = {
    kind.__name__: kind
    for kind in (
        AccordLoadPipeline,
        AccordLoadCheckpoint,
        AccordLoadJudge,
        AccordScore,
        AccordRealign,
        AccordReadPrompt,
    )
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "AccordLoadPipeline": "Accord Load Pipeline",
    "AccordLoadCheckpoint": "Accord Load Checkpoint",
    "AccordLoadJudge": "Accord Load Judge",
    "AccordScore": "Accord Score",
    "AccordRealign": "Accord Realign",
    "AccordReadPrompt": "Accord Read Prompt",
}
