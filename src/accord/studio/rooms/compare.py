"""Compare: two models on your prompts, or two runs of `accord eval` that are there, in one gallery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from accord.studio.rooms.asked import Asked, Choice, Guidance, Steps, Text, check_prompt, line, options
from accord.studio.settings import Settings
from accord.studio.work import Work
from accord.types import InputError

DEEP = 3  # folders below a root in which runs are looked for
MOST_RUNS = 200
BATCH = 4


class CompareRequest(Asked):
    """Two models with prompts, or two runs.

    Attributes:
        a, b: choices of models, or with `runs` names of runs.
        prompts: that both make pictures of.
        seeds: pictures a prompt.
        runs: whether `a` and `b` are runs that are there.
    """

    a: Choice = ""
    b: Choice = ""
    prompts: Annotated[tuple[Text, ...], Field(max_length=64)] = ()
    seeds: Annotated[int, Field(ge=1, le=8, strict=True)] = 1
    steps: Steps = None
    guidance: Guidance = None
    runs: bool = False


class Compare:
    """`accord eval checks` twice and `accord eval compare`."""

    name = "compare"
    request: type[BaseModel] = CompareRequest

    def check(self, request: CompareRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]) -> None:
        del upload
        if request.runs:
            for name in (request.a, request.b):
                run_named(name, settings)
            return
        settings.chosen(request.a)
        settings.chosen(request.b)
        if settings.is_lab(request.a) != settings.is_lab(request.b) and settings.judge is None:
            raise InputError("the two models are judged by two judges; start the studio with `judge`, one for both")
        if not request.prompts:
            raise InputError("there is no prompt to compare on; give at least one")
        for prompt in request.prompts:
            check_prompt("prompt", prompt, settings)
            if "\n" in prompt or "\r" in prompt:
                raise InputError("a prompt to compare on is one line; break none")

    def command(
        self, request: CompareRequest, settings: Settings, upload: Callable[[str], Mapping[str, Any]]
    ) -> list[str]:
        del upload
        if request.runs:
            found = [str(run_named(name, settings)) for name in (request.a, request.b)]
            return [line("accord", "eval", "compare", *found, "--out", "compare")]
        told = options(seeds=request.seeds, steps=request.steps, guidance=request.guidance)
        lines = []
        for name, choice in (("a", request.a), ("b", request.b)):
            words = settings.words(choice)
            words = words if "--model" in words else ["--model", "lab", *words]
            made = ("accord", "eval", "checks", "--prompts", "prompts.txt", *told, *words, *settings.judge_words)
            lines.append(line(*made, "--out", name))
        return [*lines, line("accord", "eval", "compare", "a", "b", "--out", "compare")]

    def run(self, work: Work) -> dict[str, Any]:
        from accord.evaluation.compare import compare, table_of, write_comparison

        asked = work.request
        left: dict[str, str] = {}  # prompts that no picture could be made or judged of, and why
        if asked.runs:
            a, b = (run_named(name, work.settings) for name in (asked.a, asked.b))
        else:
            a, b = work.folder / "a", work.folder / "b"
            prompts = work.folder / "prompts.txt"
            prompts.write_text("".join(f"{p}\n" for p in asked.prompts), encoding="utf8")
            for place, choice in ((a, asked.a), (b, asked.b)):
                left |= _made(work, prompts, place, choice)
        work.stage("comparing")
        data = compare(a, b)
        names = [asked.a, asked.b] if asked.runs else [work.settings.chosen(x) for x in (asked.a, asked.b)]
        for side, name in zip("ab", names, strict=True):
            data[side]["run"] = name if names[0] != names[1] else f"{name} ({side})"
        write_comparison(data, a, b, work.folder / "compare")
        left_out = [{"prompt": prompt, "reason": why} for prompt, why in left.items()]
        found = {"data": data, "table": table_of(data), "gallery": "compare/index.html", "names": names}
        return {**found, "left_out": left_out}


def _made(work: Work, prompts: Path, place: Path, choice: str) -> dict[str, str]:
    """A run of the suite `checks`; what an earlier try left of it is kept. Returns the prompts left out, and why."""
    from accord.data.pairs import PairsFile
    from accord.evaluation.pictures import Generated
    from accord.evaluation.registry import suite_named
    from accord.evaluation.run import Task, run_suite
    from accord.training.fingerprint import fingerprint

    asked, settings = work.request, work.settings
    name = settings.chosen(choice)
    work.stage(f"pictures of {name}")
    suite = suite_named("checks")
    records = suite.records(prompts, PairsFile())
    model, lora = settings.choices[name]
    told = {"num_inference_steps": asked.steps, "guidance_scale": asked.guidance, "negative_prompt": "", "call": {}}
    judge = settings.judge or ("lab" if settings.is_lab(choice) else settings.hub_judge)
    about = {
        "prompts": {
            "file": prompts.name,
            "count": len(records),
            "every": 1,
            "fingerprint": fingerprint([(r.number, r.prompt, r.about) for r in records]),
        },
        "settings": {"images": None, "model": model or "lab", "lora": lora, "dtype": settings.dtype, **told},
        "judges": {"judge": judge},
        "device": work.models.device,
    }
    task = Task(
        suite,
        records,
        Generated(lambda: work.models.pipe(choice), suite, told),
        lambda: suite(judge=work.models.judge(choice)),  # type: ignore[call-arg]
        [suite.first_seed + i for i in range(asked.seeds)],
        about,
    )
    summary = run_suite(task, place, batch_size=BATCH)["summary"]
    return {row["prompt"]: row["reason"] for row in summary["skipped"]}


def runs_below(settings: Settings) -> dict[str, Path]:
    """The finished runs below the folders that the studio was told of, by a name that tells no place."""
    found: dict[str, Path] = {}
    for root in settings.runs:
        for depth in range(DEEP + 1):
            for about in sorted(root.glob("/".join(["*"] * depth + ["run.json"]))):
                folder = about.parent
                if (folder / "rows.parquet").is_file() and len(found) < MOST_RUNS:
                    name = folder.relative_to(root).as_posix() if depth else root.name
                    digest = sha256(str(folder.resolve()).encode()).hexdigest()[:6]
                    found[f"{name} ({digest})"] = folder
    return found


def run_named(name: str, settings: Settings) -> Path:
    """The folder of a run by its name. Raises InputError if there is none."""
    found = runs_below(settings)
    if name not in found:
        raise InputError(f"there is no run {name!r}; start the studio with `runs`, the folder that they are in")
    return found[name]
