"""ComfyUI's nodes, without ComfyUI: its contract as documented, and the example workflow by a small executor.

The contract (docs.comfy.org, "Properties", "Datatypes" and "Workflow JSON 0.4"): INPUT_TYPES gives a tuple of a type
and its options for each input, a type being a name or a list of choices; FUNCTION names the method, which is called
with the inputs by name, optional ones where they are connected or have a widget; it returns a tuple as RETURN_TYPES
says. An IMAGE is a float tensor [B,H,W,C] in 0..1.
"""

import importlib.util
import inspect
import json
import math
import re
import sys
import tomllib
import types
from pathlib import Path

import numpy as np
import pytest
import torch

import accord

FOLDER = Path(__file__).parents[1] / "integrations" / "comfyui"
WIDGETS = {"INT": int, "FLOAT": (int, float), "STRING": str, "BOOLEAN": bool}
SOCKETS = {"IMAGE", "ACCORD_PIPELINE", "ACCORD_JUDGE"}
CORE = {"PreviewImage": {"images": "IMAGE"}}  # of ComfyUI, with what it takes


@pytest.fixture(scope="module")
def nodes():
    """As ComfyUI imports a folder of `custom_nodes/`."""
    spec = importlib.util.spec_from_file_location("nodes_of_accord", FOLDER / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    for name in [n for n in sys.modules if n.partition(".")[0] == spec.name]:
        del sys.modules[name]


def inputs_of(kind):
    """(name, type, options, whether it is required), in the order of the widgets."""
    parts = kind.INPUT_TYPES()
    assert set(parts) <= {"required", "optional"}
    return [
        (n, *made, part == "required") for part in ("required", "optional") for n, made in parts.get(part, {}).items()
    ]


def is_widget(kind):
    return isinstance(kind, list) or kind in WIDGETS


def check_value(value, kind, options):
    if isinstance(kind, list):
        assert value in kind
        return
    assert isinstance(value, WIDGETS[kind]) and not (kind != "BOOLEAN" and isinstance(value, bool))
    assert options.get("min", value) <= value <= options.get("max", value)


def check_output(value, kind):
    if kind == "IMAGE":
        assert value.dtype == torch.float32 and value.dim() == 4 and value.shape[-1] == 3
        assert value.min() >= 0 and value.max() <= 1
    elif kind in WIDGETS:
        assert isinstance(value, WIDGETS[kind])


def test_every_node_keeps_the_contract(nodes):
    mapped, titles = nodes.NODE_CLASS_MAPPINGS, nodes.NODE_DISPLAY_NAME_MAPPINGS
    assert set(mapped) == set(titles) and len(set(titles.values())) == len(titles)
    for kind in mapped.values():
        assert kind.CATEGORY.startswith("accord") and isinstance(kind.RETURN_TYPES, tuple)
        assert len(kind.RETURN_TYPES) == len(kind.RETURN_NAMES)
        assert set(kind.RETURN_TYPES) <= SOCKETS | set(WIDGETS)
        parameters = dict(inspect.signature(getattr(kind(), kind.FUNCTION)).parameters)
        for name, type_, options, required in inputs_of(kind):
            parameter = parameters.pop(name)
            assert required == (parameter.default is parameter.empty)
            assert is_widget(type_) or type_ in SOCKETS
            if not isinstance(type_, list) and type_ in WIDGETS:
                check_value(options["default"], type_, options)
            if is_widget(type_) and not required:
                assert parameter.default == options["default"]
        assert not parameters


def run_workflow(flow, kinds):
    """What each node of a workflow of the editor's form 0.4 returns, by its number."""
    assert flow["version"] == 0.4
    links = {link[0]: link for link in flow["links"]}
    by_id = {node["id"]: node for node in flow["nodes"]}
    assert flow["last_node_id"] == max(by_id) and flow["last_link_id"] == max(links)
    found = {}
    for node in sorted(flow["nodes"], key=lambda n: n["order"]):
        given = {}
        for place, socket in enumerate(node["inputs"]):
            _, source, slot, target, at, kind = links[socket["link"]]
            output = by_id[source]["outputs"][slot]
            assert (target, at, kind) == (node["id"], place, socket["type"]) and output["type"] == kind
            assert socket["link"] in output["links"]
            given[socket["name"]] = found[source][slot]
        if node["type"] in CORE:
            assert {s["name"]: s["type"] for s in node["inputs"]} == CORE[node["type"]]
            found[node["id"]] = ()
            continue
        kind, widgets = kinds[node["type"]], iter(node["widgets_values"])
        for name, type_, options, _ in inputs_of(kind):
            if is_widget(type_):
                given[name] = next(widgets)
                check_value(given[name], type_, options)
                if options.get("control_after_generate"):
                    assert next(widgets) in ("fixed", "increment", "decrement", "randomize")
            else:
                assert name in given
        assert not list(widgets)
        made = getattr(kind(), kind.FUNCTION)(**given)
        assert [o["type"] for o in node["outputs"]] == list(kind.RETURN_TYPES)
        for value, type_ in zip(made, kind.RETURN_TYPES, strict=True):
            check_output(value, type_)
        found[node["id"]] = made
    return found


def test_the_example_workflow_repairs_a_picture(nodes, lab):
    flow = json.loads((FOLDER / "example_workflows" / "repair.json").read_text(encoding="utf8"))
    realign = next(n for n in flow["nodes"] if n["type"] == "AccordRealign")
    names = [name for name, type_, *_ in inputs_of(nodes.NODE_CLASS_MAPPINGS["AccordRealign"]) if is_widget(type_)]
    names.insert(names.index("seed") + 1, "after")
    realign["widgets_values"][names.index("steps")] = 5  # to be done sooner
    realign["widgets_values"][names.index("rounds")] = 1
    found = run_workflow(flow, nodes.NODE_CLASS_MAPPINGS)
    after, before, report = found[realign["id"]]
    prompt, config = realign["widgets_values"][0], accord.RealignConfig(rounds=1, mode="same_seed")
    (wanted,) = accord.realign(
        lab, prompt, 2, config=config, captioner=accord.load_judge(), num_inference_steps=5, captions=False
    )
    for picture, own in ((after, wanted.after), (before, wanted.before)):
        assert np.array_equal((picture[0] * 255).round().byte().numpy(), np.asarray(own))
    assert json.loads(report) == json.loads(json.dumps([wanted.to_dict()]))
    score, missed, judged = next(found[n["id"]] for n in flow["nodes"] if n["type"] == "AccordScore")
    assert math.isclose(score, json.loads(judged)[0]["overall"], abs_tol=1e-9)
    # realign judges what comes out of the VAE, the node the picture with its levels rounded
    assert math.isclose(score, wanted.alignment_after.overall, abs_tol=0.01)
    low = [w["text"] for w in json.loads(judged)[0]["words"] if w["probability"] < 0.5]
    assert missed == ", ".join(dict.fromkeys(low))
    read, told = next(found[n["id"]] for n in flow["nodes"] if n["type"] == "AccordReadPrompt")
    assert read and json.loads(told)[0]["prompt"] == read


def test_pictures_of_several_channels_and_prompts_of_nothing(nodes):
    score = nodes.NODE_CLASS_MAPPINGS["AccordScore"]().score
    picture = torch.rand(1, 64, 64, 4, generator=torch.Generator().manual_seed(0))
    picture[..., 3] = picture[..., 3].round()  # seen or not
    judge = accord.load_judge()
    plain = picture[..., :3] * picture[..., 3:] + 1 - picture[..., 3:]
    assert score(picture, "a red star", judge) == score(plain, "a red star", judge)
    value, missed, report = score(plain[..., :1], "trending, 8k", judge)
    assert math.isnan(value) and missed == "" and json.loads(report)[0]["reason"]


def test_a_checkpoint_is_loaded_from_comfyuis_folder(nodes, monkeypatch, tmp_path):
    """By two functions of ComfyUI's `folder_paths`; that single files are read is in test_single_files."""
    kind = nodes.NODE_CLASS_MAPPINGS["AccordLoadCheckpoint"]
    assert kind.INPUT_TYPES()["required"]["ckpt_name"][0] == []
    stub, asked = types.ModuleType("folder_paths"), []
    stub.get_filename_list = lambda folder: {"checkpoints": ["sd15.safetensors", "old.ckpt"]}[folder]
    stub.get_full_path = lambda folder, name: str(tmp_path / name) if name == "sd15.safetensors" else None
    monkeypatch.setitem(sys.modules, "folder_paths", stub)
    assert kind.INPUT_TYPES()["required"]["ckpt_name"][0] == ["sd15.safetensors"]
    monkeypatch.setattr("accord.load", lambda *args, **more: asked.append((args, more)))
    kind().load("sd15.safetensors", "auto", "float16")
    assert asked == [((str(tmp_path / "sd15.safetensors"), None, torch.float16), {"lora": None, "model_config": None})]
    with pytest.raises(ValueError, match="'other' is not in ComfyUI's folders"):
        kind().load("other", "cpu", "float32")


def test_the_registrys_file_says_what_it_asks_for():
    said = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf8"))
    project = said["project"]
    assert re.fullmatch(r"[a-z](?:[._-]?[a-z0-9])*", project["name"]) and len(project["name"]) < 100
    assert project["version"] == accord.__version__ and re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert project["urls"]["Repository"].startswith("https://") and said["tool"]["comfy"]["PublisherId"]
    assert (FOLDER / "requirements.txt").read_text(encoding="utf8").splitlines() == project["dependencies"]
