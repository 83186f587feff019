"""The committed tables are what the code makes of the committed rows, and takes the rows for its own.

A field that is renamed, or a knob that is added, changes the name of a bench's cache. Rows that took hours would then
be unknown, and nothing else would say so.
"""

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from accord.cli.bench import app
from accord.embedded import PIPELINE
from accord.training.fingerprint import SAMPLED
from accord_lab.bench.rewards import Rewards
from accord_lab.bench.runner import bench_named, read_json

TABLES = Path(__file__).parents[1] / "docs" / "bench"
NAMES = [command.name for command in app.registered_commands]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_says_what_its_rows_say(name):
    data = read_json(TABLES / f"{name}.json")
    assert data["bench"] == name
    assert (TABLES / f"{name}.md").read_text(encoding="utf8") == bench_named(name).render(data)


def test_the_quick_page_of_scenebench_says_what_its_rows_say():
    page = (TABLES / "scenes-quick.md").read_text(encoding="utf8")
    assert page == bench_named("scenes").render(read_json(TABLES / "scenes-quick.json"))


REWARDS = {"minutes": 10.0, "seeds": 1}  # as the committed table was made


@pytest.fixture(scope="module")
def base_before(tmp_path_factory):
    """The base that these tables are of, as far as its fingerprint goes: docs/results.md says which they are. The first
    numbers of its tensors are kept beside this file.
    """
    folder = tmp_path_factory.mktemp("base") / "pipeline"
    shutil.copytree(PIPELINE, folder)
    numbers = load_file(Path(__file__).parent / "base_before.safetensors")
    for path in (
        folder / "text_encoder" / "model.safetensors",
        folder / "unet" / "diffusion_pytorch_model.safetensors",
    ):
        weights = load_file(path)
        for name, tensor in weights.items():
            tensor.view(-1)[:SAMPLED] = numbers[f"{path.parent.name}.{name}"]
        save_file(weights, path)
    return str(folder)


def test_committed_rows_of_tuning_are_known(tmp_path, base_before):
    """The rows alone, as their intervals take a minute."""
    shutil.copy(TABLES / "rewards.json", tmp_path)
    bench = Rewards(out=tmp_path, progress=False, model=base_before, **REWARDS)
    found = {r["method"] for cell in bench.cells() for r in bench.finished(cell) or ()}
    assert found == {r["method"] for r in read_json(TABLES / "rewards.json")["rows"] if "made_with" in r}


@pytest.mark.parametrize(
    ("name", "settings"),
    [("context", {}), pytest.param("rewards", REWARDS, marks=pytest.mark.slow), ("video", {})],
)
def test_committed_rows_are_known(tmp_path, base_before, name, settings):
    for path in TABLES.glob(f"{name}*"):
        shutil.copy(path, tmp_path)
    _, text = bench_named(name)(out=tmp_path, progress=False, model=base_before, **settings).run(so_far=True)
    assert text == (TABLES / f"{name}.md").read_text(encoding="utf8")
