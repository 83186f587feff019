"""Weights that are shared out among two processes on this machine (FSDP2 over gloo): what one process learns."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_rounds import ALONE, SMALL, narrow_pipeline

from accord.diffusion.lora import FILE
from accord.diffusion.sharding import is_sharded, shard
from accord.methods.tune.config import debug
from accord.methods.tune.train import train_reward
from accord.training.fingerprint import fingerprint
from accord.training.processes import Processes, wants_sharding
from accord.types import InputError

pytestmark = pytest.mark.usefixtures("no_curve")
PROMPTS = ["a red star", "a blue key", "two green fish", "a pink crown", "a yellow egg"]
KNOBS = {"nft": {"group_size": 2, "gradient_checkpointing": True}, "grpo": {"group_size": 2}}


class Bright:
    """Mean of the pictures."""

    differentiable = True

    def __call__(self, images, prompts):
        return images.mean((1, 2, 3))


def run(folder: Path, strategy: str, pipe) -> None:
    few = {**SMALL, **ALONE, **KNOBS[strategy], "batch_size": 4, "rank": 2, "steps": 2}
    train_reward(pipe, PROMPTS, Bright(), folder, config=debug(strategy, **few), progress=False)


WORKER = """
import os, sys
sys.path.insert(0, sys.argv[1])
import torch
import test_sharding as t
from pathlib import Path
torch.set_num_threads(1)
second = os.fork()  # after the imports, which take longer than the training
os.environ["RANK"] = os.environ["LOCAL_RANK"] = "0" if second else "1"
t.two(Path(sys.argv[2]))
if second:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))
"""


def two(folder: Path) -> None:
    """What each of two processes does."""
    assert wants_sharding()
    Processes("cpu")
    for strategy in KNOBS:
        pipe = narrow_pipeline()
        before, whole = fingerprint(pipe.unet), sum(p.numel() for p in pipe.unet.parameters())
        shard(pipe, "cpu")
        held = sum(p.to_local().numel() for p in pipe.unet.parameters())
        assert is_sharded(pipe) and held < 0.55 * whole and fingerprint(pipe.unet) == before
        run(folder / strategy, strategy, pipe)


def test_two_processes_that_share_the_weights_learn_what_one_learns(tmp_path):
    """In float32 to 1e-4, of weights that moved by 1e-2; each process holds half of the network."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "ACCELERATE_USE_CPU": "true",
        "ACCELERATE_USE_FSDP": "true",
    }
    command = [sys.executable, "-c", WORKER, str(Path(__file__).parent), str(tmp_path / "two")]
    both = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert both.returncode == 0, both.stderr
    for strategy in KNOBS:
        run(tmp_path / "one" / strategy, strategy, narrow_pipeline())
        one, other = (load_file(tmp_path / name / strategy / FILE) for name in ("one", "two"))
        moved = max(float(v.abs().max()) for k, v in one.items() if "lora_B" in k or "lora.up" in k)
        assert moved > 5e-3 and max(float((one[k] - other[k]).abs().max()) for k in one) < 1e-4
        assert not (tmp_path / "two" / strategy / "rollouts").exists()  # nothing of a round is kept


def test_deepspeed_is_refused(monkeypatch):
    assert not wants_sharding()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert not wants_sharding()  # alone there is no one to share with
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(InputError, match=r"DeepSpeed is not used here; .* --use_fsdp"):
        wants_sharding()
