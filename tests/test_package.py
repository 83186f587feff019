"""What pyproject.toml promises: one version, extras that are whole, versions that are locked and lowest."""

import re
import runpy
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import accord

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
USERS = {name: wanted for name, wanted in EXTRAS.items() if name not in ("all", "dev")}


def pins(name):
    lines = (ROOT / name).read_text(encoding="utf8").splitlines()
    found = [re.fullmatch(r"([a-z0-9-]+)==([0-9][0-9a-z.]*)", line) for line in lines if not line.startswith("#")]
    assert all(found), f"{name} has a line that is no pin"
    assert len({m[1] for m in found}) == len(found), f"{name} pins a package twice"
    return {m[1]: Version(m[2]) for m in found}


def requirements(*extras):
    texts = [*PROJECT["dependencies"], *(text for extra in extras for text in EXTRAS[extra])]
    return [Requirement(text) for text in texts]


def test_the_version_is_in_one_place():
    assert "version" not in PROJECT and PROJECT["dynamic"] == ["version"]
    said = [
        p for p in (ROOT / "src").rglob("*.py") if re.search(r"^__version__ = ", p.read_text(encoding="utf8"), re.M)
    ]
    assert said == [ROOT / "src" / "accord" / "__init__.py"] and Version(accord.__version__)


def test_types_are_shipped():
    assert (Path(accord.__file__).parent / "py.typed").is_file()


def test_all_is_every_extra_of_the_users():
    (text,) = EXTRAS["all"]
    wanted = Requirement(text)
    assert wanted.name == PROJECT["name"] and wanted.extras == set(USERS)


def test_what_pyproject_asks_for_is_locked():
    locked = pins("constraints.txt")
    for wanted in requirements(*USERS, "dev"):
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)]), wanted


def test_what_that_needs_in_turn_is_locked():
    """As far as the locked versions are those installed. Torch for GPUs pins its CUDA packages itself."""
    locked, seen = pins("constraints.txt"), set()
    todo = [(wanted, "") for wanted in requirements(*USERS, "dev")]
    while todo:
        wanted, extra = todo.pop()
        name = canonicalize_name(wanted.name)
        if wanted.marker is not None and not wanted.marker.evaluate({"extra": extra}):
            continue
        if (name, *wanted.extras) in seen or re.match(r"nvidia-|cuda-|triton", name):
            continue
        seen.add((name, *wanted.extras))
        assert name in locked, wanted
        installed = {str(d.metadata["Name"]): d for d in metadata.distributions(name=name)}
        for found in installed.values():
            if Version(found.version).public == str(locked[name]):
                todo += [(Requirement(need), extra) for need in found.requires or [] for extra in ("", *wanted.extras)]


def test_the_lowest_versions_are_those_that_pyproject_promises():
    lowest = pins("constraints-lowest.txt")
    promised = {}
    for wanted in requirements(*USERS):
        (bound,) = [s.version for s in wanted.specifier if s.operator == ">="]
        promised[canonicalize_name(wanted.name)] = Version(bound)
    assert lowest == promised


@pytest.mark.parametrize("name", sorted(USERS))
def test_the_readme_tells_of_every_extra(name):
    assert f"| `{name}` |" in (ROOT / "README.md").read_text(encoding="utf8")


def test_the_picture_of_the_architecture_shows_what_is_there():
    drawn = runpy.run_path(str(ROOT / "docs" / "architecture.py"))
    rows = drawn["layers"]()
    for stops in drawn["PATHS"].values():
        for module, name in stops:
            drawn["check"](module, name)
            assert drawn["layer_of"](module, rows) >= 0
    with pytest.raises(SystemExit, match="has no nothing"):
        drawn["check"]("accord.files", "nothing")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf8")
    assert all(f"`{name}`" in page for layer in rows for name in layer)
