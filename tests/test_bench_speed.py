"""The pieces of `accord bench speed`; nothing here looks at a clock."""

from dataclasses import replace

import pytest
import torch
from conftest import tiny_pipeline

from accord.diffusion.lora import add_lora
from accord.judges.captioners import load_captioner
from accord.methods.realign.equations import Block
from accord.methods.tune.strategies.draft import Draft
from accord.methods.tune.strategies.grpo import Grpo
from accord.methods.tune.strategies.raft import Raft
from accord.rewards.composed import make_rewards
from accord.types import InputError
from accord_lab.bench import measure, speed, speed_large, speed_tuning

CELL = {"seconds", "ratio", "largest_tensor_numel", "largest_tensor_bytes"}


@pytest.fixture(autouse=True)
def one_thread():
    """Two threads on busy cores wait for each other many times longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_both_forms_agree_and_only_one_holds_every_logit():
    row = speed.attention_row(48, 3, repeats=1, device="cpu", heads=2, head_dim=8)
    assert row["max_abs_difference"] < 1e-5 < 1e-2 < row["max_abs_change"]
    assert row["logits_numel"] == 2 * 48**4 and row["logits_bytes"] == 4 * row["logits_numel"]
    assert row["materialised"]["largest_tensor_numel"] == row["logits_numel"] and row["materialised_heads_at_once"] == 2
    assert row["modulated"]["largest_tensor_numel"] < row["logits_numel"] / 2
    assert row["plain"]["largest_tensor_numel"] < 48**4 / 50
    assert all(set(row[v]) == CELL and row[v]["seconds"] > 0 for v in speed.LAYERED)


def test_at_sixty_four_no_tensor_has_as_many_elements_as_one_head_has_logits():
    with speed.Largest() as seen, torch.no_grad():
        g = torch.Generator().manual_seed(0)
        q, k, v = (torch.randn(1, 1, 64**2, 8, generator=g) for _ in range(3))
        pixels = speed.bands(1, 3, 64, 7).at((64, 64))
        speed.joint_attention(q, k, v, [Block(slice(None), torch.full((1, 64**2), 0.3), pixels)], pixels)
    assert seen.numel < 64**4


def test_a_head_at_a_time_is_the_same(monkeypatch):
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 4, 64, 8, generator=g) for _ in range(3))
    pixels = speed.bands(2, 2, 8, 5).at((8, 8))
    alpha = torch.rand(2, 64, generator=g)
    blocks = [Block(slice(None), alpha, pixels)]
    whole = speed.materialised(q, k, v, blocks, pixels)
    monkeypatch.setattr(speed, "ALL_HEADS_BELOW", 0)
    assert torch.allclose(whole, speed.materialised(q, k, v, blocks, pixels), atol=1e-6)


def test_largest_counts_what_is_allocated_and_not_how_it_is_viewed():
    x = torch.zeros(10)
    with speed.Largest() as seen:
        x[:, None].expand(-1, 1000)
    assert (seen.numel, seen.bytes) == (10, 40)
    with speed.Largest() as seen:
        (x[:, None] + torch.zeros(1000)).sum()
    assert seen.numel == 10_000


def test_bands_give_each_region_pixels_and_two_tokens_and_leave_a_rest():
    for regions in (1, 3, 16):
        s = speed.bands(2, regions, 64, 77)
        assert s.masks.shape == (2, regions, 64, 64) and s.tokens.shape == (2, regions, 77)
        assert (s.masks.sum((2, 3)) > 0).all() and (s.tokens.sum(-1) == 2).all() and (s.tokens[..., 0] == 0).all()
        assert s.masks.sum(1).max() == 1 and (s.masks[:, :, -1] == 0).all()


def test_a_network_gives_a_row_of_every_variant(monkeypatch):
    monkeypatch.setattr(speed, "PIPELINE", speed.PIPELINE / "nowhere")  # random weights
    monkeypatch.setattr(speed, "peak_memory", lambda *args: 1.0)
    row = speed.network_row(speed.Size("lab", 1, 8, 2, 1, 1), "cpu")
    assert row["weights"] == "random" and row["run_is"] == "measured" and row["modulated_share"] == 0.5
    assert row["max_abs_difference"] < 1e-3 * row["max_abs_change"]
    assert set(row["step"]) == set(row["run"]) == set(speed.VARIANTS)
    assert row["step"]["plain"]["ratio"] == row["run"]["plain"]["ratio"] == 1
    projected = speed.network_row(speed.Size("lab", 1, 8, 2, 1), "cpu")
    ratios = [projected[k]["modulated"]["ratio"] for k in ("step", "run")]
    assert ratios[1] == pytest.approx(1 + 0.5 * (ratios[0] - 1))


def test_peak_memory_is_asked_of_a_process_of_its_own():
    assert 0 <= speed.peak_memory(speed.Size("lab", 1, 8, 1, 1), "materialised", "cpu") < 500


def test_results_are_written_with_short_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(speed, "peak_memory", lambda *args: 1.23456)
    layers = speed.Layer("alone", 8, 2, 8, pictures=2), speed.Layer("with text", 8, 3, 16, tokens=9)
    tiny = speed.Plan(
        (speed.Size("lab", 1, 8, 2, 1, 1),), sides=(8, 16), regions=(1, 2), side=8, repeats=1, layers=layers
    )
    data, text = speed.Speed(device="cpu", out=tmp_path / "new", plan=tiny, quick=True, progress=False).run()
    written = {p.name for p in (tmp_path / "new").iterdir()}
    assert written == {"speed-quick.json", "speed-quick.md", "speed-quick.png"}
    assert data["networks"][0]["step"]["plain"]["peak_mib"] == 1.235
    for r in data["layers"]:
        assert r["max_abs_difference"] < 1e-5 < 1e-3 < r["max_abs_change"] and r["plain"]["ratio"] == 1
        assert all(r[v]["seconds"] > 0 for v in (*speed.VARIANTS, "range"))
    assert [r["tokens"] for r in data["layers"]] == [0, 9] and "with text" in text
    assert [r["latents"] for r in data["attention"]["resolution"]] == [8, 16]
    assert [r["regions"] for r in data["attention"]["regions"]] == [1, 2]
    assert data["quick"] and data["threads"] >= 1 and data["torch"] == torch.__version__
    assert all(v in text for v in speed.VARIANTS)


def test_an_unknown_device_is_refused_before_anything_is_measured(tmp_path):
    with pytest.raises(InputError, match=r"device 'nonsense' is unknown; use cpu, cuda or cuda:N"):
        speed.Speed(device="nonsense", out=tmp_path)


def test_work_takes_turns_and_ratios_are_of_a_round():
    done = []
    taken = measure.turns({name: lambda name=name: done.append(name) for name in "ab"}, 3, "cpu")
    assert "".join(done) == "ababab" and [len(times) for times in taken.values()] == [3, 3]
    assert measure.ratios({"a": [1.0, 2.0], "b": [3.0, 3.0]}, "b") == [3.0, 1.5]


# --- real sizes ----------------------------------------------------------------------------------------------------
SMALL = (
    {"block_out_channels": (32,) * 4, "attention_head_dim": 2, "cross_attention_dim": 32},
    {
        "block_out_channels": (32,) * 3,
        "attention_head_dim": (2, 4, 4),
        "cross_attention_dim": 32,
        "transformer_layers_per_block": 1,
    },
    {
        "num_layers": 2,
        "dual_attention_layers": (0,),
        "attention_head_dim": 8,
        "num_attention_heads": 4,
        "joint_attention_dim": 32,
        "caption_projection_dim": 32,
        "pooled_projection_dim": 16,
    },
    {
        "num_layers": 1,
        "num_single_layers": 1,
        "num_attention_heads": 2,
        "joint_attention_dim": 32,
        "pooled_projection_dim": 16,
    },
    {"num_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 32},
)


def test_networks_of_every_class_are_measured_plain_tapped_and_modulated(tmp_path, monkeypatch):
    """The published configurations with fewer channels and layers, in float32."""
    monkeypatch.setattr(speed_large, "STEPS", 3)
    networks = tuple(
        replace(n, config=n.config | less, side=16, tokens=12, dtype=torch.float32)
        for n, less in zip(speed_large.NETWORKS, SMALL, strict=True)
    )
    plan = speed_large.Plan(networks, repeats=1, run_repeats=1)
    data, text = speed_large.SpeedLarge(out=tmp_path, device="cpu", progress=False, plan=plan).run()
    assert {p.name for p in tmp_path.iterdir()} == {"speed-large.json", "speed-large.md"}
    for r in data["rows"]:
        assert r["finite"] and r["relative_change"] > 1e-3 and r["tapped_is_plain"]
        assert r["plain"]["ratio"] == r["run"]["plain"]["ratio"] == 1 and r["plain"]["peak_mib"] is None
        assert r["run_ratio"] == r["run"]["modulated"]["ratio"] and r["name"] in text
    assert [r["calls"] for r in data["rows"]] == [1, 1, 1, 1, 2]


@pytest.mark.parametrize("number", range(len(SMALL)))
def test_only_the_row_with_the_prompt_is_modulated_and_in_the_first_steps_only(number):
    size = replace(
        speed_large.NETWORKS[number],
        config=speed_large.NETWORKS[number].config | SMALL[number],
        side=16,
        tokens=12,
        dtype=torch.float32,
    )
    network, inputs = size.build("cpu"), size.inputs("cpu")
    watched = size.watched(network, "cpu")
    calls = []
    network.register_forward_pre_hook(lambda *_: calls.append(watched.opened.call_of_step))
    plain, moved = (watched.denoise(v, inputs, size.latents, 1) for v in ("plain", "modulated"))
    assert torch.equal(plain[:-1], moved[:-1]) and not torch.allclose(plain[-1], moved[-1], atol=1e-4)
    calls.clear()
    with watched.as_variant("modulated") as switch:
        switch(False)
        assert torch.equal(inputs[size.latents] - network(**inputs, return_dict=False)[0], plain)
    calls.clear()
    watched.denoise("modulated", inputs, size.latents, 2, size.unprompted_calls)
    assert calls == [0, *([1] * size.unprompted_calls)] * 2


def test_the_real_sizes_are_the_published_ones():
    counts = []
    for n in speed_large.NETWORKS:
        with torch.device("meta"):
            counts.append(sum(p.numel() for p in n.kind(**n.config).parameters()))
    assert counts == [859_520_964, 2_567_463_684, 2_243_171_520, 11_901_408_320, 20_430_401_088]


def test_real_sizes_want_a_gpu(tmp_path):
    with pytest.raises(InputError, match="measured on a GPU"):
        speed_large.SpeedLarge(out=tmp_path, device="cpu")
    assert not list(tmp_path.iterdir())


# --- tuning --------------------------------------------------------------------------------------------------------
def test_the_parts_of_a_large_model_are_what_strategies_are_made_of():
    """Every part runs on a real class; those with a gradient reach the adapter, the others leave it alone."""
    pipe = tiny_pipeline()
    add_lora(pipe, 2)
    trained = [p for p in pipe.unet.parameters() if p.requires_grad]
    parts = speed_tuning.parts_of_a_picture(pipe, make_rewards({"contrast": 1.0}, load_captioner()), "a red star")
    assert tuple(parts) == speed_tuning.SD15_PARTS
    for name, part in parts.items():
        for p in trained:
            p.grad = None
        part()
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in trained) == (
            name not in ("step", "decode and judge")
        )


def test_projections_count_every_call():
    knobs = Draft(last_steps=2), Raft(candidates=3, refresh=6), Grpo(group_size=5, trained_steps=4)
    step, guided, plain, judge, end = (1.0, 100.0, 1e4, 1e6, 1e8)
    found = speed_tuning.projected(
        dict(zip(speed_tuning.SD15_PARTS, (step, guided, plain, judge, end), strict=True)), 40, *knobs
    )
    assert found["refl"] == 34 + end and found["draft"] == 38 + guided + end
    assert found["raft"] == pytest.approx(plain + 3 * (40 + judge) / 6) and found["grpo"] == 5 * (
        40 + judge + 4 * guided
    )


@pytest.mark.slow
def test_the_cost_of_tuning_is_written(tmp_path):
    data, text = speed_tuning.SpeedTuning(out=tmp_path, quick=True, progress=False).run()
    assert {p.name for p in tmp_path.iterdir()} == {"speed-tuning-quick.json", "speed-tuning-quick.md"}
    assert set(data["strategies"]) == set(speed_tuning.TIMED) and all(
        c["peak_mib"] > 0 for c in data["strategies"].values()
    )
    assert data["sd15"] is None and data["refl_over_parts"] > 0 and "peak MiB" in text
