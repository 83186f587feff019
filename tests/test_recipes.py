"""The lab's recipes: what their dense tasks teach is what the scenes show."""

import itertools
import json

import numpy as np
import pytest
import torch
from conftest import MODELS
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTokenizer

from accord.diffusion.process import level_at, levels
from accord.methods.video.hook import attention_hook
from accord.types import InputError
from accord_lab import recipes
from accord_lab.recipes import denoiser, flow, roles
from accord_lab.recipes.denoiser import (
    LAYOUT_TIMESTEPS,
    SPARSE,
    build,
    draw_sayings,
    draw_scenes,
    draw_timesteps,
    scene_pools,
)
from accord_lab.recipes.grounding import SIDE, Grounding, targets
from accord_lab.recipes.views import (
    DIRECTIONS,
    IGNORED,
    noun_labels,
    owners,
    patch_loss,
    relation_head,
    relation_labels,
)
from accord_lab.scenes.grammar import FULL, NOTHING, Saying, say
from accord_lab.scenes.lexicon import NOUNS
from accord_lab.scenes.scene import Scene, Thing

STAR = Thing("star", "red", "big", (2, 20, 30, 47))
KEY = Thing("key", "blue", "big", (34, 22, 62, 50))
SCENE = Scene("gray", (STAR, KEY))


def test_labels_of_patches_name_the_thing_and_where_it_lies():
    owner, noun, place = (f(SCENE).reshape(8, 8) for f in (owners, noun_labels, relation_labels))
    assert owner[4, 1] == 1 and owner[4, 5] == 2 and owner[0, 0] == 0
    assert (noun[owner == 1] == 1 + NOUNS.index("star")).all() and (noun[owner == 2] == 1 + NOUNS.index("key")).all()
    assert (noun[owner == 0] == 0).all()
    assert (place[owner == 1] == DIRECTIONS.index("left")).all() and (
        place[owner == 2] == DIRECTIONS.index("right")
    ).all()
    assert (place[owner == 0] == IGNORED).all()
    assert (relation_labels(Scene("gray", (STAR,))) == IGNORED).all()


def test_patch_loss_is_the_cross_entropy_of_labelled_patches():
    torch.manual_seed(0)
    states, head = torch.randn(3, 65, 16), relation_head(16)
    expected = []
    for i, label in enumerate(relation_labels(SCENE)):
        if label != IGNORED:
            expected.append(-head(states[0, 1 + i]).log_softmax(-1)[int(label)])
    found = patch_loss(states, head, relation_labels, [SCENE, Scene("gray", ()), None])
    assert torch.allclose(found, torch.stack(expected).mean(), atol=1e-6)
    assert patch_loss(states, head, relation_labels, [None] * 3) == 0


def test_targets_of_the_contest_are_the_phrases_and_their_places():
    tokenizer = CLIPTokenizer.from_pretrained(MODELS / "pipeline" / "tokenizer")
    rng = np.random.default_rng(0)
    captions = [say(SCENE, rng, FULL), say(Scene("gray", (KEY,)), rng, FULL), NOTHING]
    told = tokenizer(
        [said.text for said in captions], padding="max_length", return_tensors="pt", return_offsets_mapping=True
    )
    tokens, places = targets(captions, [SCENE, Scene("gray", (KEY,)), SCENE], told.offset_mapping)
    words = [[tokenizer.decode(i).strip() for i in told.input_ids[0][t > 0]] for t in tokens[0]]
    assert words == [["a", "big", "red", "star"], ["a", "big", "blue", "key"], []]
    assert not tokens[1:].any() and not places[1:].any()
    assert places[0, 0, :, : SIDE // 2].sum() == places[0, 0].sum() > 0  # the star is on the left, the key is not
    assert places[0, 1, :, : SIDE // 2].sum() == 0 < places[0, 1].sum()


def test_the_contest_is_won_by_looking_at_the_own_phrase():
    tokens = torch.zeros(1, 3, 5)
    tokens[0, 0, 1] = tokens[0, 1, 2] = 1
    places = torch.zeros(1, 3, 8, 8)
    places[0, 0, :, :4] = places[0, 1, :, 4:] = 1
    grounding = Grounding()

    def lost(left: tuple[float, float], right: tuple[float, float]) -> float:
        maps = torch.full((1, 8, 8, 5), 0.1)
        for half, values in ((slice(0, 4), left), (slice(4, 8), right)):
            maps[0, :, half, 1], maps[0, :, half, 2] = values
        grounding.maps = [maps.reshape(1, 64, 5)]
        return float(grounding.loss(tokens, places))

    for left, right, share in (
        ((0.4, 0.4), (0.2, 0.2), 0.5),
        ((0.6, 0.2), (0.1, 0.3), 0.75),
        ((0.2, 0.6), (0.3, 0.1), 0.25),
    ):
        assert lost(left, right) == pytest.approx(-np.log(share), abs=1e-4)


def test_the_contest_of_pixels_that_look_at_no_phrase_is_even():
    """-log of (own + 1e-6) / (all + 1e-6); a batch without a contest loses nothing."""
    tokens = torch.eye(3)[None]
    places = torch.zeros(1, 3, 8, 8)
    grounding = Grounding()
    grounding.maps = [torch.full((1, 64, 3), 1e-6)]
    assert float(grounding.loss(tokens, places)) == 0
    places[0, 0] = 1
    grounding.maps = [torch.tensor([1e-6, 3e-6, 0.0]).expand(1, 64, 3)]
    assert float(grounding.loss(tokens, places)) == pytest.approx(-np.log(2 / 5), rel=1e-4)


def test_grounded_attention_is_plain_attention_and_its_loss_reaches_the_queries():
    torch.manual_seed(0)
    unet: UNet2DConditionModel = build(32, widths=(32, 32, 32))
    unet.set_attn_processor(AttnProcessor())
    x, states = torch.randn(2, 4, 16, 16), torch.randn(2, 7, 32)
    grounding = Grounding()
    plain = unet(x, 500, states).sample
    with attention_hook(unet, grounding):
        hooked = unet(x, 500, states).sample
    assert torch.allclose(plain, hooked, atol=1e-5)
    assert {m.shape[1] for m in grounding.maps} == {64, 256}
    tokens, places = torch.zeros(2, 3, 7), torch.rand(2, 3, 16, 16)
    tokens[:, 0, 1] = tokens[:, 1, 2] = tokens[:, 2, 3] = 1
    grounding.loss(tokens, places).backward()
    assert unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2.to_q.weight.grad.abs().max() > 0
    assert grounding.maps == []


def test_draws_keep_their_shares():
    rng = np.random.default_rng(0)
    pools = (np.array([100]), np.array([1]), np.array([2, 3]))
    drawn = draw_scenes(rng, 4000, (0.1, 0.2), pools)
    assert abs((drawn == 100).mean() - 0.1) < 0.02 and abs((drawn == 1).mean() - 0.2) < 0.02
    usual, early = draw_timesteps(rng, 4000, 1000), draw_timesteps(rng, 4000, 1000, layout=0.8)
    assert usual.min() >= 0 and usual.max() < 1000
    low, high = LAYOUT_TIMESTEPS
    inside = [((t >= low) & (t < high)).float().mean() for t in (usual, early)]
    assert inside[1] > inside[0] + 0.4
    sayings = draw_sayings(rng, np.arange(4000) < 1000, (0.1, 0.4))
    assert sayings[:1000] == [FULL] * 1000  # centred things
    for kind, share in ((FULL, 0.1), (SPARSE, 0.4), (Saying(), 0.5)):
        assert abs(np.mean([s == kind for s in sayings[1000:]]) - share) < 0.04
    assert all(s == Saying() for s in draw_sayings(rng, np.zeros(200, bool), (0.0, 0.0)))


def test_going_on_things_of_many_details_come_often(monkeypatch):
    monkeypatch.setattr(denoiser, "SCENES", 300)
    things = [denoiser.scene_of(i, 0).things for i in range(300)]
    for going_on in (False, True):
        centred, single, rest = scene_pools(0, going_on)
        assert len(centred) == denoiser.CENTRED and centred[0] == 300
        cars = [i for i in single if things[i][0].noun == "car"]
        assert all(len(things[i]) == 1 for i in single) and cars
        assert len(cars) == len(set(cars)) * (denoiser.DETAILED["car"] if going_on else 1)
        assert set(rest) == ({i for i in range(300) if len(things[i]) > 1} if going_on else set(range(300)))


def test_a_run_is_not_resumed_with_another_seed_or_start(tmp_path):
    (tmp_path / "runs" / "vae" / "checkpoints" / "step-00000001").mkdir(parents=True)
    begun = {"part": "vae", "steps": 2, "seed": 0, "start": None}
    (tmp_path / "runs" / "vae" / "config.json").write_text(json.dumps(begun))
    with pytest.raises(InputError, match="was begun with seed=0, not 1"):
        recipes.train("vae", tmp_path, steps=2, seed=1)


def test_a_flow_has_as_much_noise_for_its_signal_as_the_denoiser_at_the_same_draw():
    before, after, like = denoiser.scheduler(), flow.scheduler(), torch.zeros(5, 4, 2, 2)
    timesteps = torch.tensor([0, 100, 500, 900, 998])
    old = level_at(before, timesteps, like)
    new = level_at(after, denoiser.as_noisy(before, after, timesteps), like)
    assert new.kind == "velocity" and torch.allclose(new.a + new.s, torch.ones(5, 1, 1, 1))
    assert torch.allclose(new.s / new.a, old.s / old.a, rtol=1e-3)
    x0, noise = torch.randn(2, 5, 4, 2, 2)
    assert torch.allclose(
        new.noised(x0, noise), old.noised(x0, noise) / (old.a + old.s), atol=1e-5
    )  # but for its length, the same state
    velocity = (old.s - old.a) * old.noised(x0, noise) + (old.a + old.s) * old.target(x0, noise)
    assert torch.allclose(new.target(x0, noise), velocity, atol=1e-4)
    assert denoiser.as_noisy(before, denoiser.scheduler(), timesteps) is timesteps


def test_a_step_of_the_flow_pipeline_is_eulers():
    scheduler = flow.scheduler()
    scheduler.set_timesteps(7)
    grid, x, velocity = levels(scheduler), *torch.randn(2, 1, 4, 2, 2)
    assert all(level.kind == "velocity" for level in grid) and grid[-1].s == 0
    for (now, after), t in zip(itertools.pairwise(grid), scheduler.timesteps, strict=True):
        stepped = scheduler.step(velocity, t, x).prev_sample
        assert torch.allclose(stepped, x + (after.s - now.s) * velocity, atol=1e-5)
        x = stepped


def test_the_denoiser_learns_a_flow_and_its_folder_is_one_of_plain_diffusers(tmp_path, monkeypatch):
    monkeypatch.setattr(denoiser, "SCENES", 60)
    monkeypatch.setattr(denoiser, "CENTRED", 4)
    latents = torch.randn(64, 4, 16, 16)
    monkeypatch.setattr(denoiser, "encode_scenes", lambda *_: latents)
    seen, level_of = [], denoiser.level_at
    monkeypatch.setattr(denoiser, "level_at", lambda *told: seen.append(told[0]) or level_of(*told))
    recipes.train("flow", tmp_path, steps=2, start=MODELS)
    assert {s.config.prediction_type for s in seen} == {
        "v_prediction",
        "flow_prediction",
    }  # drawn on one, taught on one
    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "pipeline")
    assert pipe.scheduler.config.use_flow_sigmas and pipe.scheduler.config.prediction_type == "flow_prediction"
    assert pipe("a star", num_inference_steps=2, output_type="pt").images.isfinite().all()


def test_what_a_flow_is_taught():
    process, times = flow.scheduler(), torch.tensor([100.0, 900.0])
    x0, noise = torch.randn(2, 2, 4, 2, 2)
    x_t, target = denoiser.noised(process, times, x0, noise)
    share = (times / 1000).view(2, 1, 1, 1)
    assert torch.allclose(x_t, (1 - share) * x0 + share * noise) and torch.allclose(target, noise - x0)


def test_a_flow_stays_a_flow(tmp_path, monkeypatch):
    """Training that goes on from a flow teaches velocity, and its folder says so; roles leave the process alone."""
    monkeypatch.setattr(denoiser, "SCENES", 60)
    monkeypatch.setattr(denoiser, "CENTRED", 4)
    monkeypatch.setattr(denoiser, "encode_scenes", lambda *_: torch.randn(64, 4, 16, 16))
    monkeypatch.setattr(roles, "POOL", 80)
    monkeypatch.setattr(roles, "HELD_OUT", 16)
    recipes.train("flow", tmp_path / "flow", steps=1, start=MODELS)
    for part in ("denoiser", "roles"):
        recipes.train(part, tmp_path / part, steps=1, start=tmp_path / "flow")
        settings = json.loads((tmp_path / part / "pipeline" / "scheduler" / "scheduler_config.json").read_text())
        assert settings["prediction_type"] == "flow_prediction" and settings["use_flow_sigmas"], part


def test_flow_starts_from_a_finished_denoiser(tmp_path):
    with pytest.raises(InputError, match="flow is learnt by the denoiser of a finished pipeline; give `start`"):
        recipes.train("flow", tmp_path, steps=2)
