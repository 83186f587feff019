"""Flip a sign, drop a term, swap a bound: does a test notice? The mutants of the losses, the guard and the equations.

    make mutate                                        # all, into docs/bench/mutation.md and .json
    python tests/mutation/mutate.py --only guard loop  # of the modules with one of these in their name

A mutant is one change of one operator in one function. Its module's tests run in a process of its own, in which the
module is loaded with that change; the first failing test kills it. What no test can tell from the original, as it is
the same in every case that can occur, is listed in EQUIVALENT with the reason.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import importlib
import importlib.abc
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))


@dataclass(frozen=True)
class Target:
    """A module, its functions that are mutated (all if none), and the tests that are to notice."""

    module: str
    functions: str  # names with spaces between
    files: str  # of tests
    names: str = ""  # parts of the names of the tests, all if none

    @property
    def path(self) -> Path:
        return ROOT / "src" / (self.module.replace(".", "/") + ".py")

    @property
    def tests(self) -> list[str]:
        files = [f"tests/test_{f}.py" for f in self.files.split()]
        return files + (["-k", " or ".join(self.names.split())] if self.names else [])


TARGETS = (
    Target("accord.training.guard", "update stopped", "learning tuning", "guard"),
    Target("accord.methods.realign.equations", "", "equations"),
    Target(
        "accord.methods.context.equations",
        "",
        "context_equations learning",
        "test_1 test_2 test_3 test_4 test_5 test_6 test_7 test_8 test_9 corrections bound_of context_in_closed "
        "three_shifts rounding",
    ),
    Target("accord.methods.context.process", "", "context context_families learning", "shift loss flow context"),
    Target("accord.methods.context.sampling", "", "context_families context", "shifted inverted packed prior without"),
    Target(
        "accord.methods.context.schedulers", "", "context", "ddim ddpm shifted last_step shift inversion noise half"
    ),
    Target(
        "accord.methods.invert.equations",
        "",
        "invert",
        "by_hand nested normalised_mean least_squares brute_force kmeans ridge domain_kernel",
    ),
    Target(
        "accord.methods.tune.strategies.grpo",
        "",
        "learning tuning",
        "raises_the_probability clipped_objective advantages log_p last_step",
    ),
    Target("accord.methods.tune.strategies.nft", "", "learning", "nft good"),
    Target("accord.methods.tune.strategies.awm", "", "learning", "awm"),
    Target("accord.methods.tune.forward", "advantages _old _noised", "learning", "nft good old_weights judged"),
    Target("accord.methods.tune.drift", "", "limits", "by_hand"),
    Target("accord.training.limits", "update _change _lost", "limits", "drift gain watching fall"),
    Target(
        "accord.methods.tune.strategies.refl", "", "learning tuning", "margin_ends is_that_of_the_reward drawn_where"
    ),
    Target("accord.methods.tune.strategies.draft", "", "learning", "margin_ends is_that_of_the_reward"),
    Target("accord.methods.tune.strategies.raft", "", "learning tuning", "raft_learns raft_keeps raft_does"),
    Target(
        "accord.diffusion.process",
        "noised target x0 noise _norm transition spread affine levels level_at _of_sigma of_ab rooted_eta",
        "opened context_equations edits learning",
        "transition small_steps levels process test_9 closed predicted affine zero_terminal",
    ),
    Target("accord.methods.edit.editing", "", "edits call", "inverted affine flow_edit steps injection pixels inverse"),
    Target("accord.methods.tune.rollouts", "denoising_loss", "learning", "denoising captions drift"),
    Target("accord.methods.tune.train", "loss", "learning", "weighted_sum"),
    Target(
        "accord.methods.context.objective",
        "",
        "learning context",
        "context_in_closed bound_of video_in_closed estimated",
    ),
    Target("accord.methods.context.train", "__call__", "learning context", "context_in_closed dropped_captions"),
    Target("accord.methods.invert.train", "loss_fn", "learning", "inverter"),
    Target(
        "accord.evaluation.geneval",
        "judge counted directions _wrong_colour _wrong_place figures _agreement",
        "geneval",
        "right wrong reason counting excluded sixteen is_that_of_the_surest directions position brute kappa overall",
    ),
    Target("accord.judges.detect", "instances _outline _extent overlap", "detect", "by_hand masks hundred overlap"),
    Target("accord_lab.recipes.vae", "loss_fn", "learning", "vae_recipe"),
    Target("accord_lab.recipes.clip", "loss_fn", "learning", "clip_recipe"),
    Target("accord_lab.recipes.captioner", "loss_fn", "learning", "captioner_recipe"),
    Target("accord_lab.recipes.denoiser", "loss_fn", "learning", "denoiser_recipe"),
    Target("accord_lab.recipes.grounding", "loss __call__", "recipes", "contest grounded"),
    Target("accord.rewards.composed", "__call__ combine calibrate", "rewards"),
    *(
        Target(f"accord.rewards.named.{name}", "__call__", "rewards")
        for name in ("caption", "likelihood", "contrast", "clip")
    ),
    Target("accord.rewards.named.passes", "__call__", "strict", "lab_passes"),
    Target("accord.prompts.same", "", "strict"),
    Target("accord.judges.strict", "", "strict"),
    Target(
        "accord.training.loop",
        "lr_at _step _average",
        "training",
        "learning_rate average micro skipped left_alone follows",
    ),
)

SWAPS: dict[type, type] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.Lt: ast.GtE,
    ast.GtE: ast.Lt,
    ast.Gt: ast.LtE,
    ast.LtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
}
OWN = ("accord", "accord_lab")  # what is loaded anew for each mutant
NAMES = {"argmax": "argmin", "amax": "amin", "max": "min", "maximum": "minimum"} | {
    "argmin": "argmax", "amin": "amax", "min": "max", "minimum": "maximum", "sin": "cos", "cos": "sin"
}  # fmt: skip
DROPPED = {"relu", "square", "sqrt", "exp", "log", "clamp", "abs", "softmax", "normalize"}

# "module.function operator number: before -> after": why no test can tell them apart
EQUIVALENT: dict[str, str] = json.loads((Path(__file__).parent / "equivalent.json").read_text(encoding="utf8"))


@dataclass
class Mutant:
    """One change: where, what, and the module's source with it."""

    target: Target
    name: str
    source: str = field(repr=False)


def sites(tree: ast.Module, functions: set[str]) -> Iterator[tuple[str, ast.AST]]:
    """(qualified name of the function, node) of what can be changed; texts of errors, annotations and defaults are none
    of it.
    """

    def walk(node: ast.AST, inside: tuple[str, ...], chosen: bool) -> Iterator[tuple[str, ast.AST]]:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            inside += (node.name,)
            if isinstance(node, ast.FunctionDef):
                chosen = chosen or not functions or node.name in functions
            for child in node.body:
                yield from walk(child, inside, chosen)
            return
        if isinstance(node, ast.Raise | ast.JoinedStr | ast.AnnAssign | ast.Assert):
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                yield from walk(node.value, inside, chosen)
            return
        if chosen:
            yield ".".join(inside), node
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside, chosen)

    yield from walk(tree, (), False)


def kind(node: ast.AST) -> str:
    """What is changed of a node: its operator or the function that it calls."""
    if isinstance(node, ast.Call):
        return getattr(node.func, "attr", getattr(node.func, "id", ""))
    operator = node.ops[0] if isinstance(node, ast.Compare) else getattr(node, "op", node)
    return type(operator).__name__


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become."""
    if isinstance(node, ast.BinOp) and type(node.op) in SWAPS:
        if isinstance(node.left, ast.Constant) and isinstance(node.left.value, str):  # a text
            return
        yield ast.BinOp(node.left, SWAPS[type(node.op)](), node.right)
        if isinstance(node.op, ast.Add | ast.Sub):
            yield node.left
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub) and not isinstance(node.operand, ast.Constant):
        yield node.operand
    elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SWAPS:
        yield ast.Compare(node.left, [SWAPS[type(node.ops[0])]()], node.comparators)
    elif isinstance(node, ast.AugAssign) and type(node.op) in SWAPS:
        yield ast.AugAssign(node.target, SWAPS[type(node.op)](), node.value)
    elif isinstance(node, ast.Call):
        function = node.func
        name = getattr(function, "attr", getattr(function, "id", ""))
        if name in NAMES:
            other = copy.deepcopy(node)
            setattr(other.func, "attr" if isinstance(function, ast.Attribute) else "id", NAMES[name])
            yield other
        elif name in DROPPED and isinstance(function, ast.Attribute):
            of_module = isinstance(function.value, ast.Name) and function.value.id in ("torch", "F", "np", "math")
            if not of_module or node.args:
                yield node.args[0] if of_module else function.value


def mutants(target: Target) -> list[Mutant]:
    """All of a module. Each is named by its function, by its operator, numbered among those of its kind in the
    function, and by the expression before and after: a name stays the same when other functions change.
    """
    tree = ast.parse(target.path.read_text(encoding="utf8"))
    found: list[Mutant] = []
    count: Counter[tuple[str, str]] = Counter()
    for function, node in sites(tree, set(target.functions.split())):
        others = list(changes(node))
        if others:
            count[function, kind(node)] += 1
        for other in others:
            before, after = ast.unparse(node), ast.unparse(ast.fix_missing_locations(copy.deepcopy(other)))
            where = f"{target.module}.{function} {kind(node)} {count[function, kind(node)]}"
            found.append(Mutant(target, f"{where}: {before} -> {after}", _replaced(tree, node, other)))
    twice = [name for name, times in Counter(m.name for m in found).items() if times > 1]
    if twice:
        raise ValueError(f"two mutants have one name: {twice[0]}")
    return found


def _replaced(tree: ast.Module, node: ast.AST, other: ast.AST) -> str:
    """The module's source with `other` where `node` is."""
    for parent in ast.walk(tree):
        for name, value in ast.iter_fields(parent):
            here = value if isinstance(value, list) else [value]
            for i, child in enumerate(here):
                if child is not node:
                    continue
                if isinstance(value, list):
                    value[i] = other
                else:
                    setattr(parent, name, other)
                source = ast.unparse(ast.fix_missing_locations(tree))
                if isinstance(value, list):
                    value[i] = node
                else:
                    setattr(parent, name, node)
                return source
    raise ValueError("the node is not of this tree")


class Loader(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Loads one module from a changed source."""

    def __init__(self, module: str, source: str) -> None:
        self.module, self.source = module, source
        self.path = str(ROOT / "src" / (module.replace(".", "/") + ".py"))

    def find_spec(self, name, path, target=None):
        return importlib.util.spec_from_loader(name, self, origin=self.path) if name == self.module else None

    def get_filename(self, fullname):
        return self.path

    def get_data(self, path):
        return self.source.encode()

    def path_stats(self, path):
        raise OSError  # never from a cache


def start(tests: list[str], module: str | None = None, source: str = "", imported: Path | None = None) -> int:
    """A process that runs the tests, with the module changed; it ends with pytest's code.

    What it has imported is written into the file `imported`.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setsid()
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 1)
        os.dup2(sink, 2)
        sys.dont_write_bytecode = True
        if module is not None:
            sys.meta_path.insert(0, Loader(module, source))
        import pytest

        code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--no-header", *tests])
        if imported is not None:
            imported.write_text("\n".join(sys.modules), encoding="utf8")
    except BaseException:
        code = 1
    os._exit(int(code))


def share_imports(names: list[str]) -> None:
    """Import once what every process needs and no mutant touches; forked processes have it."""
    import torch

    torch.set_num_threads(1)
    for name in names:
        ours = (*OWN, "__main__", "conftest", "tiny_detectors", "tiny_models", "zoo")
        if name.split(".")[0] not in ours and not name.startswith("test_"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    if any(name in sys.modules for name in OWN):
        raise RuntimeError("the package is imported already, and would not be loaded with its changes")


class Fates:
    """What became of each mutant: killed, killed (time) or survived. Kept in a file, by which a run goes on.

    A mutant that was killed is not run again while its module stays as it is; one that survived is, as a test may have
    been written since. If a test was weakened, take the file away: then all are run.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.modules: dict[str, dict[str, Any]] = {}
        if path is not None and path.exists():
            self.modules = json.loads(path.read_text(encoding="utf8"))

    def begin(self, target: Target, found: list[Mutant]) -> None:
        """Take up a module's mutants; what is known of them counts only if it is of the same source."""
        digest = sha256(target.path.read_bytes()).hexdigest()
        old = self.modules.get(target.module, {})
        known = old.get("fates", {}) if old.get("source") == digest else {}
        self.modules[target.module] = {
            "source": digest,
            "seconds": old.get("seconds", 0) if known else 0,
            "fates": {m.name: known.get(m.name) for m in found},
        }

    def of(self, mutant: Mutant) -> str | None:
        """None if it was not run."""
        return self.modules[mutant.target.module]["fates"][mutant.name]

    def write(self, mutant: Mutant, fate: str, seconds: float) -> None:
        module = self.modules[mutant.target.module]
        module["fates"][mutant.name] = fate
        module["seconds"] = round(module["seconds"] + seconds, 1)
        if self.path is not None:
            part = self.path.with_suffix(".part")
            part.write_text(json.dumps(self.modules, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
            os.replace(part, self.path)

    def names(self, module: str, *fates: str | None) -> list[str]:
        """A module's mutants with one of these fates."""
        return [n for n, f in self.modules[module]["fates"].items() if f in fates]


def run_all(waiting: list[Mutant], fates: Fates, jobs: int, limit: float) -> None:
    """Run the tests of each mutant."""
    from tqdm import tqdm

    running: dict[int, tuple[Mutant, float]] = {}
    with tqdm(total=len(waiting), desc="mutants") as bar:
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop(0)
                running[start(mutant.target.tests, mutant.target.module, mutant.source)] = (mutant, time.monotonic())
            for pid, (mutant, begun) in list(running.items()):
                done, status = os.waitpid(pid, os.WNOHANG)
                seconds = time.monotonic() - begun
                late = not done and seconds > limit
                if late:
                    os.killpg(pid, signal.SIGKILL)
                    os.waitpid(pid, 0)
                if done or late:
                    del running[pid]
                    code = os.waitstatus_to_exitcode(status) if done else None
                    fates.write(mutant, "killed (time)" if late else "survived" if code == 0 else "killed", seconds)
                    if code == 0 and mutant.name not in EQUIVALENT:
                        tqdm.write(f"survived: {mutant.name}")
                    bar.update()
            time.sleep(0.02)


def page(fates: Fates, modules: list[str]) -> str:
    """The table, a row for each module, and what survived."""
    rows, survived, same = [], [], []
    for module in modules:
        alive = fates.names(module, "survived")
        known = [n for n in alive if n in EQUIVALENT]
        killed = fates.names(module, "killed", "killed (time)")
        count, seconds = len(fates.modules[module]["fates"]), fates.modules[module]["seconds"]
        rows.append((count, len(killed), len(known), len(alive) - len(known), seconds / 60))
        survived += [n for n in alive if n not in EQUIVALENT]
        same += known
    lines = [
        "# Mutants",
        "",
        "`make mutate` changes one operator at a time in the losses, the guard and the equations, and runs the tests.",
        "A mutant is killed if a test fails. The fate of each is in [mutation.json](mutation.json).",
        "",
        "| module | mutants | killed | the same as the original in every case | survived | minutes |",
        "|---|---|---|---|---|---|",
        *("| {} | {} | {} | {} | {} | {:.0f} |".format(m, *row) for m, row in zip(modules, rows, strict=True)),
        "| all | {} | {} | {} | {} | {:.0f} |".format(*(sum(column) for column in zip(*rows, strict=True))),
        "",
    ]
    for title, names in (("Survived", survived), ("The same as the original", same)):
        if names:
            lines += [f"## {title}", ""]
            lines += [f"- `{n}`" + (f": {EQUIVALENT[n]}" if n in EQUIVALENT else "") for n in names] + [""]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[""], help="modules with one of these in their name")
    parser.add_argument(
        "--out", type=Path, help="folder for mutation.md and mutation.json; what is there is gone on with"
    )
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a mutant may take")
    parser.add_argument("--list", action="store_true", help="say which there are and run none")
    options = parser.parse_args()
    targets = [t for t in TARGETS if any(part in t.module for part in options.only)]
    found = {t.module: mutants(t) for t in targets}
    if options.list:
        print("\n".join(m.name for of_module in found.values() for m in of_module))
        return 0
    os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if options.out is not None:
        options.out = options.out.absolute()
        options.out.mkdir(parents=True, exist_ok=True)
    os.chdir(ROOT)
    fates = Fates(None if options.out is None else options.out / "mutation.json")
    for target in targets:
        fates.begin(target, found[target.module])
    every = [m for of_module in found.values() for m in of_module]
    waiting = [m for m in every if fates.of(m) is None or (fates.of(m) == "survived" and m.name not in EQUIVALENT)]
    with tempfile.TemporaryDirectory() as scratch:
        for target in targets:
            if not any(m.target is target for m in waiting):
                continue
            imported = Path(scratch) / target.module
            if os.waitstatus_to_exitcode(os.waitpid(start(target.tests, imported=imported), 0)[1]):
                print(f"the tests of {target.module} fail without a change: {' '.join(target.tests)}", file=sys.stderr)
                return 2
            share_imports(imported.read_text(encoding="utf8").split("\n"))
    run_all(waiting, fates, options.jobs, options.limit)
    whole = [t.module for t in TARGETS if t.module in fates.modules and not fates.names(t.module, None)]
    text = page(fates, whole)
    if options.out is not None:
        (options.out / "mutation.md").write_text(text, encoding="utf8")
    print(text)
    names = {m.name for m in every}
    unknown = [n for n in EQUIVALENT if n.split(" ")[0].startswith(tuple(f"{m}." for m in found)) and n not in names]
    for name in unknown:
        print(f"no such mutant any more: {name}", file=sys.stderr)
    alive = [n for m in found for n in fates.names(m, "survived") if n not in EQUIVALENT]
    return 1 if unknown or alive else 0


if __name__ == "__main__":
    raise SystemExit(main())
