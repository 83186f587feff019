"""Reverse Stable Diffusion: equations, data, predictors, training, the saved inverter, prompts out of pictures."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import tiny_pipeline, tiny_sd3, tiny_sdxl
from diffusers import StableDiffusionInpaintPipeline
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F
from zoo import CALL, ZOO, fresh, shared

from accord.data.images import to_tensor
from accord.data.pair_folders import list_images, stream_pairs, write_metadata, write_part
from accord.data.pairs import PairsFile
from accord.data.shards import parse_shard
from accord.diffusion.generate import generators
from accord.diffusion.lora import add_lora
from accord.diffusion.opened import networks_of
from accord.diffusion.tower import features, opened_for_pictures
from accord.judges.captioners import load_captioner
from accord.methods.invert.alignment import InversionScore
from accord.methods.invert.bank import Bank, not_english
from accord.methods.invert.bulk import invert_files, labelled_by
from accord.methods.invert.config import InvertTrainConfig, PredictorConfig
from accord.methods.invert.data import PairSet, load_pairs
from accord.methods.invert.equations import (
    curriculum_prefix,
    ensemble,
    ensemble_weights,
    joint_loss,
    kernel_rows,
    kernel_spread,
    ridge,
    spherical_kmeans,
)
from accord.methods.invert.fit import train_inverter
from accord.methods.invert.inverter import Inverter
from accord.methods.invert.kernel import DomainKernel
from accord.methods.invert.pairs import make_pairs
from accord.methods.invert.predictors import DenoiserTower, UNetTower, build, tower_side
from accord.methods.invert.readable import readable_prompts
from accord.methods.invert.reader import Reader, invert
from accord.methods.invert.split import group_near_duplicates, split_groups
from accord.methods.invert.train import _folds, out_of_fold_scores, predict, train_predictor
from accord.methods.invert.transplant import perturbed, transplanted
from accord.methods.invert.vocabulary import Vocabulary, words_of
from accord.rewards.sentence import load_sentence
from accord.types import InputError
from accord_lab.scenes.ask import ask_of, check
from accord_lab.scenes.grammar import caption
from accord_lab.scenes.render import render
from accord_lab.scenes.scene import Scene, Thing, sample_scene

pytestmark = pytest.mark.usefixtures("no_curve")
QUICK = InvertTrainConfig(steps=4, batch_size=4, curriculum="none", save_every=2, bf16=False)
KINDS = ("unet", "clip", "vit", "swin", "blip")


@pytest.fixture(scope="module")
def embed():
    return load_sentence()


@pytest.fixture(scope="module")
def data(embed) -> PairSet:
    rng = np.random.default_rng(0)
    scenes = [sample_scene(rng, "one") for _ in range(48)]
    images = torch.from_numpy(np.stack([render(s) for s in scenes])).permute(0, 3, 1, 2).contiguous()
    prompts = [caption(s, rng) for s in scenes]
    return PairSet(images, prompts, embed(prompts), list(prompts))


@pytest.fixture(scope="module")
def vocabulary(data) -> Vocabulary:
    return Vocabulary.build(data.prompts, 100)


def picture(seed: int = 3) -> Image.Image:
    return Image.fromarray(render(sample_scene(np.random.default_rng(seed), "one")))


# --- equations -----------------------------------------------------------------------------------------------------
def test_joint_loss_by_hand():
    predicted, target = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0, 0.0]])
    logits, present = torch.tensor([[0.0, math.log(3)]]), torch.tensor([[1.0, 0.0]])
    words = (-math.log(0.5) - math.log(0.25)) / 2
    assert float(joint_loss(predicted, target, logits, present, 0.1)) == pytest.approx(1 - 0.6 + 0.1 * words, abs=1e-6)
    assert float(joint_loss(predicted, target, None, None, 0.1)) == pytest.approx(0.4, abs=1e-6)


def test_curriculum_is_nested_and_sized_to_the_steps():
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    sizes = [len(curriculum_prefix(i / 100, order)) for i in range(100)]
    assert sizes == [6] * 25 + [8] * 25 + [12] * 25 + [24] * 25
    assert torch.equal(curriculum_prefix(0.3, order)[:6], curriculum_prefix(0.0, order))
    assert len(curriculum_prefix(1.0, order)) == 24  # when all steps are taken


def test_ensemble_is_the_normalised_mean_and_refuses_wrong_weights():
    a, b = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    assert torch.allclose(ensemble([a, b]), torch.full((1, 2), 0.5**0.5))
    assert torch.allclose(ensemble([a, b], [3, 4]), torch.tensor([[0.6, 0.8]]))
    with pytest.raises(ValueError, match="1 weights were given for 2 predictors"):
        ensemble([a, b], [1.0])
    with pytest.raises(ValueError, match="must not be negative"):
        ensemble([a, b], [0.0, 0.0])


def test_fitted_weights_are_the_least_squares_ones_that_are_not_negative():
    a, b = torch.eye(4)[:2].repeat_interleave(3, 0), torch.eye(4)[2:].repeat_interleave(3, 0)
    assert ensemble_weights([a, b], 0.8 * a + 0.6 * b) == pytest.approx([4 / 7, 3 / 7], abs=1e-4)
    assert ensemble_weights([a, b], 0.8 * a - 0.6 * b) == pytest.approx([1, 0], abs=1e-4)
    assert ensemble_weights([a, a, b], a) == pytest.approx([0.5, 0.5, 0], abs=1e-3)
    assert ensemble_weights([a, b], -a - b) == [0.5, 0.5]
    generator = torch.Generator().manual_seed(0)
    y = F.normalize(torch.randn(60, 8, generator=generator), dim=-1)
    found = [F.normalize(y + noise * torch.randn(60, 8, generator=generator), dim=-1) for noise in (0.2, 0.4, 0.4)]
    weights = ensemble_weights(found, y)

    def least(w):  # squared error of the mean at its best length
        mean = sum(x * v for x, v in zip(w, found, strict=True))
        return float((mean * ((mean * y).sum() / mean.square().sum()) - y).square().sum())

    assert weights[0] > max(weights[1:]) and min(weights) >= 0 and sum(weights) == pytest.approx(1)
    # directions alone are compared, whatever the lengths
    lengths = [0.5 + torch.arange(60.0)[:, None] * step for step in (0.1, 0.3, 0.02)]
    longer = [p * n for p, n in zip(found, lengths, strict=True)]
    assert ensemble_weights(longer, y * lengths[1].flip(0)) == pytest.approx(weights, abs=1e-5)
    assert all(least(w) > least(weights) - 1e-4 for w in np.random.default_rng(0).dirichlet([1, 1, 1], 200).tolist())


def test_kernel_against_brute_force():
    g = torch.Generator().manual_seed(0)
    x, c = torch.randn(7, 5, generator=g), torch.randn(4, 5, generator=g)
    rows = kernel_rows(x, c, 3.0)
    for i in range(7):
        for j in range(4):
            cos = float(x[i] @ c[j] / x[i].norm() / c[j].norm())
            assert float(rows[i, j]) == pytest.approx(math.exp(-3 * (1 - cos) / 2), abs=1e-5)
    square = kernel_rows(c, c, 3.0)
    off = square[~torch.eye(4, dtype=torch.bool)]
    assert kernel_spread(c, 3.0) == pytest.approx(float(off.std(unbiased=False)), abs=1e-6)


def test_kmeans_finds_separate_clusters():
    g = torch.Generator().manual_seed(0)
    centres = F.normalize(torch.randn(4, 16, generator=g), dim=-1)
    rows = (centres.repeat_interleave(50, 0) + 0.03 * torch.randn(200, 16, generator=g))[
        torch.randperm(200, generator=g)
    ]
    best = max(float((centres @ spherical_kmeans(rows, 4, seed=s, chunk=64).T).amax(1).min()) for s in range(5))
    assert best > 0.99
    with pytest.raises(ValueError, match="cannot be found in 3 rows"):
        spherical_kmeans(rows[:3], 4)


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_kmeans_against_brute_force(steps):
    """The same first centroids, and each step written out row by row; rows of all lengths, read in chunks."""
    g = torch.Generator().manual_seed(3)
    rows = torch.randn(90, 3, generator=g) * torch.arange(1.0, 91.0)[:, None]
    first = torch.randperm(90, generator=torch.Generator().manual_seed(5))[:4]
    unit = [row / row.norm() for row in rows]
    centroids = [unit[i] for i in first]
    for _ in range(steps):
        members = [[] for _ in centroids]
        for row in unit:
            members[max(range(4), key=lambda k: float(row @ centroids[k]))].append(row)
        assert all(members)
        centroids = [sum(own) / sum(own).norm() for own in members]
    assert torch.allclose(spherical_kmeans(rows, 4, steps, seed=5, chunk=32), torch.stack(centroids), atol=1e-5)


@pytest.mark.parametrize("block", [1, 4, 6, 512])  # of the symmetric matrix, made in blocks and mirrored
def test_ridge_in_chunks_equals_the_direct_solution(block, monkeypatch):
    monkeypatch.setattr("accord.methods.invert.equations.BLOCK", block)
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(200, 6, generator=g) + 2, torch.randn(200, 3, generator=g)
    chunks = [(x[i : i + 33], y[i : i + 33]) for i in range(0, 200, 33)]
    weights, intercept = ridge(chunks, 0.05)
    xd, yd = x.double(), y.double()
    xc, yc = xd - xd.mean(0), yd - yd.mean(0)
    direct = torch.linalg.solve(xc.T @ xc + 0.05 * 200 * torch.eye(6, dtype=torch.float64), xc.T @ yc)
    assert torch.allclose(weights.double(), direct, atol=1e-4)
    assert torch.allclose(intercept.double(), yd.mean(0) - xd.mean(0) @ direct, atol=1e-3)


def test_domain_kernel_mends_a_bent_prediction_and_refuses_a_degenerate_kernel():
    g = torch.Generator().manual_seed(0)
    truth = F.normalize(torch.randn(1200, 8, generator=g), dim=-1)
    push = 0.6 * torch.tensor([1.0, -1] * 4) * (truth[:, :1] > 0)  # not linear: half of the sphere is pushed aside
    bent = F.normalize(truth + push + 0.02 * torch.randn(1200, 8, generator=g), dim=-1)
    kernel = DomainKernel.fit(bent[:800], truth[:800], bent[800:], centroids=64, gamma=4.0, penalty=1e-5)
    before = F.cosine_similarity(bent[800:], truth[800:]).mean()
    assert F.cosine_similarity(kernel(bent[800:]), truth[800:]).mean() > before + 0.15
    same = F.normalize(torch.ones(50, 8) + 1e-4 * torch.randn(50, 8, generator=g), dim=-1)
    with pytest.raises(InputError, match="the kernel is degenerate"):
        DomainKernel.fit(same, truth[:50], same, centroids=8)
    with pytest.raises(InputError, match="need 100 rows"):
        DomainKernel.fit(bent[:50], truth[:50], bent[800:], centroids=200)


# --- vocabulary and split ------------------------------------------------------------------------------------------
def test_vocabulary_holds_content_words_by_frequency():
    prompts = ["A red STAR and a key", "the red key", "red"]
    found = Vocabulary.build(prompts, 2)
    assert found.words == ("red", "key")
    assert found.present(["A Red fish", "nothing"]).tolist() == [[1, 0], [0, 0]]
    assert words_of("A star to the left of two KEYS.") == ["star", "left", "two", "keys"]
    with pytest.raises(InputError, match="no content word"):
        Vocabulary.build(["a the", "123"], 10)


def test_planted_near_duplicates_never_cross_the_split(embed):
    base = [
        "a castle in the mist",
        "portrait of an old sailor",
        "stock chart of a bank",
        "a bowl of noodle soup",
        "neon city at night",
        "a horse on a beach",
        "diagram of a steam engine",
        "two kittens in a basket",
        "astronaut on mars",
        "a jazz band on stage",
    ]
    variants = ["{}", "{}.", "{}!", "{} ", "a picture of {}"]
    prompts = [v.format(p) for p in base for v in variants]
    groups = group_near_duplicates(embed(prompts), 0.9, chunk=7)
    for i in range(len(base)):
        own = groups[5 * i : 5 * i + 4]
        assert len(set(own)) == 1
    split = split_groups(groups, 0.2, 0.2, seed=1)
    parts = [set(groups[p]) for p in (split.train, split.validation, split.test)]
    assert not (parts[0] & parts[1] or parts[0] & parts[2] or parts[1] & parts[2])
    assert len(split.train) + len(split.validation) + len(split.test) == len(prompts)
    vectors = embed(prompts)
    across = vectors[split.test] @ vectors[np.concatenate([split.train, split.validation])].T
    assert float(across.max()) <= 0.9


def test_a_split_of_one_group_is_refused():
    with pytest.raises(ValueError, match="near-duplicates of each other"):
        split_groups(np.zeros(50, dtype=int))
    with pytest.raises(ValueError, match="leave something to train on"):
        split_groups(np.arange(50), 0.5, 0.5)


# --- pairs on disk -------------------------------------------------------------------------------------------------
def test_diffusiondb_layout_is_read_with_and_without_metadata(tmp_path):
    rows = [{"p": f"a star {i}", "se": i, "c": 7.0, "st": 50, "sa": "k_lms"} for i in range(3)]
    write_part(tmp_path, 1, [picture()] * 3, rows)
    write_part(tmp_path, 2, [picture()] * 2, [*rows[:1], {**rows[1], "p": " "}])
    (tmp_path / "part-000001" / "000001-000001.png").unlink()
    skipped = PairsFile()
    found = list(stream_pairs(tmp_path, skipped))
    assert [p.prompt for p in found] == ["a star 0", "a star 2", "a star 0"]
    assert sorted(s["reason"] for s in skipped.skipped) == ["no image 000001-000001.png", "no prompt"]
    assert write_metadata(tmp_path) == 5
    again = PairsFile()
    assert list(stream_pairs(tmp_path, again)) == found and len(again.skipped) == 2
    hub = tmp_path / "hub"  # as the dataset's own repository has it, of which one part was fetched
    shutil.copytree(tmp_path / "part-000001", hub / "images" / "part-000001")
    shutil.copy(tmp_path / "metadata.parquet", hub)
    assert [p.prompt for p in stream_pairs(hub, PairsFile())] == ["a star 0", "a star 2"]
    write_part(
        tmp_path, 3, [picture()], [{**rows[0], "p": "half an emoji \ud83d"}]
    )  # which the metadata does not name yet
    assert [p.prompt for p in stream_pairs(tmp_path, PairsFile())][-1] == "half an emoji ?"
    shutil.rmtree(tmp_path / "part-000003")
    (tmp_path / "part-000002" / "part-000002.json").write_text("{broken")
    (tmp_path / "metadata.parquet").unlink()
    broken = PairsFile()
    assert (
        len(list(stream_pairs(tmp_path, broken))) == 2
        and broken.skipped[-1]["reason"] == "part-000002.json cannot be read"
    )
    unfetched = tmp_path / "unfetched"
    unfetched.mkdir()
    shutil.copy(hub / "metadata.parquet", unfetched)
    with pytest.raises(InputError, match="none of its parts; fetch and unpack one"):
        list(stream_pairs(unfetched, PairsFile()))
    (tmp_path / "metadata.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="cannot be read"):
        list(stream_pairs(tmp_path, PairsFile()))


def test_other_folders_and_their_faults(tmp_path):
    folder = tmp_path / "hf"
    folder.mkdir()
    picture().save(folder / "a.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "text": "a star"}\n{"file_name": "b.png"}\n')
    skipped = PairsFile()
    assert [p.prompt for p in stream_pairs(folder, skipped)] == ["a star"] and len(skipped.skipped) == 1
    assert list_images(folder) == [folder / "a.png"]
    (tmp_path / "empty").mkdir()
    for call, message in [
        (lambda: list(stream_pairs(tmp_path / "none", PairsFile())), "do not exist"),
        (lambda: list(stream_pairs(tmp_path / "empty", PairsFile())), "holds no pairs"),
        (lambda: list_images(tmp_path / "empty"), "holds no picture"),
        (lambda: list_images(tmp_path / "none"), "does not exist"),
    ]:
        with pytest.raises(InputError, match=message):
            call()


def test_pairs_of_a_pipeline_with_a_call_of_its_own(tmp_path):
    pipe = tiny_sd3()
    assert make_pairs(pipe, ["a red star", "a blue key"], tmp_path / "a", num_inference_steps=2) == 2
    (first, second) = stream_pairs(tmp_path / "a", PairsFile())
    seeds = [
        json.loads((tmp_path / "a" / "part-000001" / "part-000001.json").read_text())[Path(p.image).name]["se"]
        for p in (first, second)
    ]
    expected = pipe(
        prompt=[first.prompt, second.prompt], num_inference_steps=2, guidance_scale=5.0, generator=generators(seeds)
    ).images
    for pair, image in zip((first, second), expected, strict=True):
        assert np.array_equal(np.asarray(Image.open(pair.image)), np.asarray(image))


def test_made_pairs_do_not_depend_on_parts_and_stopping(tmp_path):
    pipe, prompts = tiny_pipeline(), ["a red star", "a blue key", "a green tree"]
    kwargs = {"num_inference_steps": 2, "batch_size": 2}
    assert make_pairs(pipe, prompts, tmp_path / "a", part_size=2, **kwargs) == 3
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / ".part-000001.part").mkdir()  # what a killed run leaves
    make_pairs(pipe, prompts, tmp_path / "b", part_size=2, **kwargs)
    first = [p.image for p in stream_pairs(tmp_path / "a", PairsFile())]
    again = [p.image for p in stream_pairs(tmp_path / "b", PairsFile())]
    assert [Path(p).read_bytes() for p in first] == [Path(p).read_bytes() for p in again]
    stamp = Path(first[0]).stat().st_mtime_ns
    make_pairs(pipe, prompts, tmp_path / "a", part_size=2, **kwargs)
    assert Path(first[0]).stat().st_mtime_ns == stamp
    made = {Path(p).name: Path(p).read_bytes() for p in first}
    assert (
        make_pairs(pipe, [*prompts, "a moon"], tmp_path / "a", part_size=2, **kwargs) == 4
    )  # the last part was not full
    longer = [p for p in stream_pairs(tmp_path / "a", PairsFile())]
    assert [p.prompt for p in longer] == [*prompts, "a moon"] and all(
        Path(p.image).read_bytes() == made[Path(p.image).name] for p in longer[:3]
    )
    assert make_pairs(pipe, prompts, tmp_path / "a", part_size=2, **kwargs) == 4  # fewer than are there: they stay
    for changed in ({"seed": 5}, {"num_inference_steps": 3}):
        with pytest.raises(InputError, match="another seed or other settings"):
            make_pairs(pipe, prompts, tmp_path / "a", part_size=2, **{**kwargs, **changed})
    other = tiny_pipeline()
    add_lora(other, 2)
    with pytest.raises(InputError, match="is of other prompts, another model or adapter"):
        make_pairs(other, prompts, tmp_path / "a", part_size=2, **kwargs)
    shares = [make_pairs(pipe, prompts, tmp_path / "c", part_size=2, shard=(i, 2), **kwargs) for i in (2, 1)]
    assert shares == [1, 3]  # in the folder so far
    shared = [p.image for p in stream_pairs(tmp_path / "c", PairsFile())]
    assert [Path(p).read_bytes() for p in shared] == [Path(p).read_bytes() for p in first]


def test_broken_pictures_are_skipped_and_counted(tmp_path, embed):
    from accord.types import Pair

    picture().save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:90])
    skipped = PairsFile()
    pairs = [Pair(str(tmp_path / "a.png"), "a star", 1), Pair(str(tmp_path / "b.png"), "a key", 2)]
    assert load_pairs(pairs, 64, embed, skipped).prompts == ["a star"]
    assert [s["row"] for s in skipped.skipped] == [2]
    with pytest.raises(InputError, match="none of 1 pictures"):
        load_pairs(pairs[1:], 64, embed, PairsFile())


# --- predictors ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", KINDS)
def test_each_predictor_has_one_interface_and_learns(kind, data, vocabulary, tmp_path):
    config = PredictorConfig(kind=kind, hidden=32)
    predictor = build(config, len(vocabulary))
    images = data.pixels([0, 1, 2], predictor.side)
    vector, logits = predictor(images, data.captions_of([0, 1, 2]))
    assert vector.shape == (3, 384) and logits is not None and logits.shape == (3, len(vocabulary))
    assert torch.allclose(vector.norm(dim=-1), torch.ones(3), atol=1e-5)
    vector.sum().backward()
    touched = [p for p in predictor.tower.parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert len(touched) > 4
    if kind == "unet":
        assert all(
            p.grad is None for p in [*predictor.tower.vae.parameters(), *predictor.tower.text_encoder.parameters()]
        )

    def score(model) -> float:
        vectors = predict(model, data)[0]
        assert vectors.shape == (48, 384)
        return float((vectors * data.targets).sum(-1).mean())

    untrained = score(build(config, len(vocabulary), QUICK.seed, 384).eval())
    trained = train_predictor(
        config, data, vocabulary, tmp_path, replace(QUICK, steps=6, batch_size=16, learning_rate=1e-3, ema_decay=0.0)
    )
    assert score(trained) > untrained + 0.01
    (row,) = [json.loads(s) for s in (tmp_path / "curve.jsonl").read_text().splitlines()]
    assert row["step"] == 6 and row["loss"] < 1 + 0.1 * 0.7  # of vectors at random, and of words at a coin's chance


@pytest.mark.parametrize("kind", ["lab", "sdxl"])
def test_unet_tower_is_the_networks_own_encoder(data, kind):
    """Against hooks on a whole forward pass of the U-Net."""
    import accord

    pipe = accord.load(device="cpu") if kind == "lab" else tiny_sdxl()
    seen = {}
    hooks = [
        b.register_forward_hook(lambda m, a, out, i=i: seen.__setitem__(i, out[0]))
        for i, b in enumerate(pipe.unet.down_blocks)
    ]
    hooks.append(pipe.unet.mid_block.register_forward_hook(lambda m, a, out: seen.__setitem__("mid", out)))
    images = data.pixels([0, 1])
    with torch.no_grad():
        latents = pipe.vae.encode(images * 2 - 1).latent_dist.mode() * pipe.vae.config.scaling_factor
        added = None
        if kind == "lab":
            states, _ = pipe.encode_prompt(data.prompts[:2], "cpu", 1, False)
        else:
            states, _, pooled, _ = pipe.encode_prompt(data.prompts[:2], device="cpu", do_classifier_free_guidance=False)
            added = {"text_embeds": pooled, "time_ids": torch.tensor([[32.0, 32, 0, 0, 32, 32]] * 2)}
        pipe.unet(latents, 0, states, added_cond_kwargs=added)
        for hook in hooks:
            hook.remove()
        tower = UNetTower(pipe)
        assert torch.allclose(tower(images, data.prompts[:2]), seen["mid"].mean((2, 3)), atol=1e-5)
        levels = UNetTower(pipe, all_levels=True)
        parts = [seen[i].mean((2, 3)) for i in range(len(pipe.unet.down_blocks))] + [seen["mid"].mean((2, 3))]
        assert torch.allclose(levels(images, data.prompts[:2]), torch.cat(parts, -1), atol=1e-5)
        assert not torch.allclose(
            UNetTower(pipe, caption_conditioned=False)(images, data.prompts[:2]), tower(images, data.prompts[:2])
        )


def test_a_predictor_on_xl_trains_and_is_saved_without_what_is_not_trained(data, vocabulary, tmp_path):
    tiny_sdxl().save_pretrained(tmp_path / "xl")
    config = PredictorConfig(kind="unet", model=str(tmp_path / "xl"), hidden=8)
    trained = train_predictor(config, data, vocabulary, tmp_path / "run", replace(QUICK, steps=2))
    own = tiny_sdxl().unet.state_dict()
    assert not torch.equal(
        trained.tower.add_embedding.state_dict()["linear_1.weight"], own["add_embedding.linear_1.weight"]
    )
    inverter = Inverter([trained], [config], vocabulary, captioner=load_captioner())
    inverter.save_pretrained(tmp_path / "inverter")
    saved = load_file(tmp_path / "inverter" / "predictor-0.safetensors")
    assert not [k for k in saved if "text_encoder" in k or "vae" in k or "up_blocks" in k]
    again = Inverter.from_pretrained(tmp_path / "inverter")
    assert torch.allclose(again([picture()])[0], inverter([picture()])[0], atol=1e-2)
    pipe = tiny_sdxl()
    with transplanted(pipe, trained, 1.0):
        assert torch.equal(
            pipe.unet.state_dict()["add_embedding.linear_1.weight"], trained.tower.add_embedding.linear_1.weight
        )
    assert all(torch.equal(v, own[k]) for k, v in pipe.unet.state_dict().items())


@pytest.mark.parametrize("name", ["sd35", "flux2klein", "qwenimage", "zimage", "sana", "wan", "wan22"])
def test_the_network_of_any_family_is_a_tower(data, name):
    pipe = fresh(name)
    size, guidance = ("height", "width", "num_frames"), ("guidance_scale", "true_cfg_scale", "negative_prompt")
    further = {key: value for key, value in CALL[name].items() if key not in (*size, *guidance)}
    tower = DenoiserTower(*opened_for_pictures(pipe, CALL[name]["height"], further)).train()
    tower.network.requires_grad_(True)
    images, texts = data.pixels([0, 1], tower.side), ["a red star", "a blue key"]
    found = tower(images, texts)
    assert found.shape == (2, tower.width)
    with torch.no_grad():
        assert torch.equal(features(tower.opened, texts, tower.opened.encode(texts, images)), found)
        alone = torch.cat([tower(images[i : i + 1], texts[i : i + 1]) for i in (0, 1)])
        assert torch.allclose(alone, found, atol=1e-4)
        assert not torch.allclose(tower(images, texts[::-1]), found, atol=1e-6)
        assert not torch.allclose(tower(images.flip(0), texts), found, atol=1e-3)
        deaf = DenoiserTower(tower.opened, tower.side, caption_conditioned=False)
        assert torch.equal(deaf(images, texts), tower(images, ["", ""]))
    network = networks_of(pipe)[name == "wan22"]  # at low noise its second expert runs
    own, parts = dict(network.named_parameters()), dict(tower.network.named_parameters())
    assert all(weight is own[key] for key, weight in parts.items())
    found.square().mean().backward()
    reached = {key for key, weight in own.items() if weight.grad is not None}
    assert reached <= parts.keys() and len(parts.keys() - reached) <= 1  # a table of the output's is none of a module
    assert all(p.grad is None for p in tower.outside.parameters()) and not tower.outside["vae"].training


def test_a_tower_has_no_more_of_a_network_than_what_runs(data):
    pipe = fresh("sd35")
    config = {**pipe.transformer.config, "num_layers": 5}
    pipe.register_modules(transformer=type(pipe.transformer).from_config(config).eval())
    names = DenoiserTower(*opened_for_pictures(pipe, 32)).network.state_dict().keys()
    assert {key.split(".")[1] for key in names if key.startswith("transformer_blocks")} == {"0", "1", "2"}
    assert not [key for key in names if key.startswith(("proj_out", "norm_out"))]


def test_a_predictor_on_a_transformer_trains_and_is_saved_without_what_is_not_trained(data, vocabulary, tmp_path):
    ZOO["sd35"]().save_pretrained(tmp_path / "sd35")
    config = PredictorConfig(kind="denoiser", model=str(tmp_path / "sd35"), hidden=8)
    trained = train_predictor(config, data, vocabulary, tmp_path / "run", replace(QUICK, steps=2))
    assert trained.side == tower_side(config) == 32 and trained.needs_captions
    own, key = shared("sd35").transformer.state_dict(), "transformer_blocks.0.attn.to_q.weight"
    assert not torch.equal(trained.tower.network.state_dict()[key], own[key])
    inverter = Inverter([trained], [config], vocabulary, captioner=load_captioner())
    inverter.save_pretrained(tmp_path / "inverter")
    saved = load_file(tmp_path / "inverter" / "predictor-0.safetensors")
    assert not [k for k in saved if "outside" in k or "text_encoder" in k or "vae" in k or "proj_out" in k]
    again = Inverter.from_pretrained(tmp_path / "inverter")
    assert torch.allclose(again([picture()])[0], inverter([picture()])[0], atol=1e-2)
    assert torch.equal(again.predictors[0].tower.network.state_dict()[key], saved[f"tower.network.{key}"].float())
    with pytest.raises(InputError, match="only a unet predictor"), transplanted(shared("sd35"), trained, 0.5):
        pass
    with pytest.raises(InputError, match="all_levels is for U-Nets of Stable Diffusion, and a StableDiffusion3Pipe"):
        build(replace(config, all_levels=True), 0)


def test_a_white_box_has_two_names():
    made = [build(PredictorConfig(kind=kind, hidden=8), 0) for kind in ("unet", "denoiser")]
    assert all(torch.equal(a, b) for a, b in zip(*(m.state_dict().values() for m in made), strict=True))
    assert all(isinstance(m.tower, UNetTower) for m in made)
    assert tower_side(PredictorConfig(kind="denoiser")) == made[0].side


def test_a_pipeline_that_needs_more_than_a_prompt_is_no_tower():
    pipe = StableDiffusionInpaintPipeline(**shared("sd1").components, requires_safety_checker=False)
    with pytest.raises(InputError, match="a StableDiffusionInpaintPipeline needs a picture as its argument image"):
        opened_for_pictures(pipe)


def test_frozen_towers_stay(data, vocabulary, tmp_path):
    config = PredictorConfig(kind="clip", hidden=0)
    before = {k: v.clone() for k, v in build(config, 5).tower.state_dict().items()}
    trained = train_predictor(config, data, vocabulary, tmp_path, replace(QUICK, freeze_tower=True))
    assert all(torch.equal(v, before[k]) for k, v in trained.tower.state_dict().items())


def test_scores_of_other_pairs_are_not_used(data, vocabulary, tmp_path):
    """A run that was killed between its scores and its first checkpoint, begun anew with other pairs."""
    kind, config = PredictorConfig(kind="clip", hidden=8), replace(QUICK, curriculum="prefix", steps=2)
    (tmp_path / "config.json").write_text('{"pairs": 1}')
    np.save(tmp_path / "scores.npy", np.zeros(3))
    train_predictor(kind, data, vocabulary, tmp_path, config)
    assert len(np.load(tmp_path / "scores.npy")) == len(data)


def test_scores_are_out_of_fold(data, vocabulary, tmp_path, monkeypatch):
    """No pair may be scored by a model that was trained on its prompt."""
    from accord.methods.invert import train

    seen, scored = [], []
    real_train, real_predict = train.train_predictor, train.predict
    monkeypatch.setattr(
        train, "train_predictor", lambda kind, part, *a: (seen.append(set(part.prompts)), real_train(kind, part, *a))[1]
    )
    monkeypatch.setattr(
        train,
        "predict",
        lambda model, d, rows, size: (
            scored.append({d.prompts[int(i)] for i in rows}),
            real_predict(model, d, rows, size),
        )[1],
    )
    twice = data.subset([*range(len(data)), *range(len(data))])  # every prompt has several pictures
    scores = out_of_fold_scores(PredictorConfig(kind="clip", hidden=8), twice, vocabulary, tmp_path, QUICK, "cpu")
    assert torch.isfinite(scores).all() and len(scores) == len(twice)
    assert len(seen) == 2 and all(not (a & b) for a, b in zip(seen, scored, strict=True))
    assert set.union(*scored) == set(twice.prompts)


def test_near_duplicates_share_a_fold(embed):
    prompts = [
        f"{p}{end}" for p in ("a red star", "two blue keys", "a green tree", "a yellow egg") for end in ("", ".", "!")
    ]
    data = PairSet(torch.zeros(12, 3, 64, 64, dtype=torch.uint8), prompts, embed(prompts))
    fold = _folds(data, replace(QUICK, fold_similar=0.9)).reshape(4, 3)
    assert (fold == fold[:, :1]).all() and fold[:, 0].bincount().tolist() == [2, 2]
    with pytest.raises(InputError, match="none can be scored by a model that has not seen it"):
        _folds(data, replace(QUICK, fold_similar=1e-3))


@pytest.mark.parametrize("curriculum", ["prefix", "random"])
def test_training_resumes_where_it_was(data, vocabulary, tmp_path, monkeypatch, curriculum):
    from accord.training.loop import Run

    config = replace(QUICK, steps=6, curriculum=curriculum)
    kind = PredictorConfig(kind="clip", hidden=8)
    whole = train_predictor(kind, data, vocabulary, tmp_path / "a", config)
    real = Run._step

    def stop(self, *arguments):
        if self.step == 4 and self.config.steps == 6:
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(Run, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        train_predictor(kind, data, vocabulary, tmp_path / "b", config)
    monkeypatch.undo()
    again = train_predictor(kind, data, vocabulary, tmp_path / "b", config)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))
    with pytest.raises(InputError, match="was begun with seed=0, not 7"):
        train_predictor(kind, data, vocabulary, tmp_path / "b", replace(config, seed=7))


# --- the inverter --------------------------------------------------------------------------------------------------
def inverter(vocabulary: Vocabulary, *kinds: str) -> Inverter:
    configs = [PredictorConfig(kind=k, hidden=16) for k in kinds]
    return Inverter([build(c, len(vocabulary), seed=i) for i, c in enumerate(configs)], configs, vocabulary)


def test_saved_and_loaded_in_standard_form(vocabulary, tmp_path):
    made = inverter(vocabulary, *KINDS)
    made.weights = [1.0, 2.0, 1.0, 1.0, 0.5]
    made.save_pretrained(tmp_path)
    assert {"config.json", "vocabulary.txt", "predictor-0.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    back = Inverter.from_pretrained(tmp_path)
    images = [picture(i) for i in range(3)]
    for a, b in zip(made(images), back(images), strict=True):
        assert torch.allclose(a, b, atol=5e-3)  # float16 on disk
    assert back.weights == made.weights and back.vocabulary == vocabulary


def test_damaged_inverters_are_named(vocabulary, tmp_path):
    with pytest.raises(InputError, match="holds no inverter"):
        Inverter.from_pretrained(tmp_path)
    inverter(vocabulary, "clip").save_pretrained(tmp_path)
    words = (tmp_path / "vocabulary.txt").read_text()
    (tmp_path / "vocabulary.txt").write_text("\n")
    with pytest.raises(InputError, match="has no words"):
        Inverter.from_pretrained(tmp_path)
    (tmp_path / "vocabulary.txt").write_text(words)
    config = json.loads((tmp_path / "config.json").read_text())
    config["predictors"][0]["architecture"]["class"] = "system"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="no other class is called"):
        Inverter.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InputError, match="no valid JSON"):
        Inverter.from_pretrained(tmp_path)
    for weights, message in (([0.0, 0.0], "not all 0"), ([1.0, -1.0], "0 or more"), ([1.0, float("nan")], "0 or more")):
        with pytest.raises(InputError, match=message):
            Inverter([build(PredictorConfig(), 3)] * 2, [PredictorConfig()] * 2, vocabulary, weights)
    with pytest.raises(InputError, match="1 weights were given for 2 predictors"):
        Inverter([build(PredictorConfig(), 3)] * 2, [PredictorConfig()] * 2, vocabulary, [1.0])


def test_invert_gives_words_retrieval_and_a_prompt(vocabulary, embed):
    made = inverter(vocabulary, "clip")
    odd = [
        picture().convert("CMYK"),
        picture().convert("RGBA").resize((300, 40)),
        picture().convert("L"),
        picture().convert("I;16"),
    ]
    results = invert(odd, made, ["a red star", "two blue keys", "a red star"], embed=embed, top_words=4)
    for result in results:
        assert len(result.words) == 4 and [p for _, p in result.words] == sorted(
            (p for _, p in result.words), reverse=True
        )
        assert {t for t, _ in result.retrieved} == {"a red star", "two blue keys"} and result.prompt
        assert result.score == pytest.approx(float(embed([result.prompt])[0] @ result.embedding), abs=1e-4)
        json.dumps(result.to_dict())
    assert invert(odd[0], made, readable=False)[0].prompt == ""
    foreign = replace(made, kinds=[PredictorConfig(kind="clip", model="of/the-hub")])
    with pytest.raises(InputError, match="names no captioner"):
        invert(odd[0], foreign, embed=embed)
    assert invert(odd[0], foreign, embed=embed, captioner=load_captioner())[0].prompt
    for lab, foreign in ((True, False), (False, True)):  # what it was trained on, where that is known
        assert replace(made, lab=lab).is_beyond_the_lab is foreign
    for prompts in (
        ["ein roter Stern auf einem Tisch", "der Mond und ein Haus"],
        ["une clé bleue", "la lune dans le ciel"],
        ["赤い星", "青い鍵"],
    ):
        with pytest.raises(InputError, match="in a language that the sentence embedder cannot read"):
            Bank(prompts, embed)
    assert not any(
        not_english(p) for p in ("a castle", "portrait of guillermo del toro, by moebius", "octane render, 8k")
    )
    with pytest.raises(InputError, match="no image to invert"):
        invert([], made)
    with pytest.raises(InputError, match="nothing to choose from"):
        Bank(["a star", "a star"], embed)
    narrow = lambda texts: F.normalize(torch.ones(len(texts), 12), dim=-1)  # noqa: E731
    with pytest.raises(InputError, match="embeddings have 12 numbers and the inverter's 384"):
        invert(odd[0], made, ["a", "b"], embed=narrow, readable=False)
    with pytest.raises(InputError, match="gives 12 numbers"):
        invert(odd[0], made, embed=narrow)


class Counted:
    """A real object that keeps how many pictures or texts each call of it was given."""

    def __init__(self, real) -> None:
        self.real, self.asked = real, {}

    def _asked(self, name, call):
        def asked(first, *rest, **options):
            self.asked.setdefault(name, []).append(len(first) if hasattr(first, "__len__") else 1)
            return call(first, *rest, **options)

        return asked

    def __getattr__(self, name):
        found = getattr(self.real, name)
        return self._asked(name, found) if name in ("caption", "encode", "log_likelihood") else found

    def __call__(self, *given, **options):
        return self._asked("call", self.real)(*given, **options)


def test_a_reader_converts_scales_captions_and_embeds_once(vocabulary, embed, monkeypatch):
    """For an inverter that reads captions itself, of a captioner that the readable prompt is made with too."""
    from accord.methods.invert import inverter as module

    made = inverter(vocabulary, "unet", "clip")
    made.captioner, embedder = Counted(load_captioner()), Counted(embed)
    converted, scaled = Counted(module.to_rgb), Counted(module.fit)
    monkeypatch.setattr(module, "to_rgb", converted)
    monkeypatch.setattr(module, "fit", scaled)
    reader = Reader.of(made, ["a red star", "two blue keys"], embed=embedder)
    assert reader.captioner is made.captioner and embedder.asked["call"] == [2]  # the bank, once and for all
    wide = [picture(i).resize((100, 80)) for i in range(5)]
    found = reader(wide)
    assert converted.asked["call"] == [1] * 5
    assert scaled.asked["call"] == [1] * 5 + [5] * 2  # each picture to the one side, which the predictors take as it is
    assert made.captioner.asked["caption"] == made.captioner.asked["encode"] == [5]
    first, *rounds = embedder.asked["call"][1:]  # candidates of all pictures, then edits of all
    assert 3 <= first <= 5 + 2 and len(rounds) <= 2 and len(made.captioner.asked["log_likelihood"]) == 1 + len(rounds)
    assert len(found) == 5 and all(r.prompt for r in found)
    made.captioner.asked.clear()
    assert replace(reader, captioner=None)(wide[:2])[0].prompt in reader.bank.prompts  # words only, of the nearest
    assert made.captioner.asked == {"caption": [2]}  # which its own predictor reads


def test_a_picture_is_read_alone_as_among_others(embed):
    reader = Reader.of(bank=["a red star and a blue key", "two green trees", "a purple fish"], embed=embed)
    pictures = [picture(i) for i in range(6)] + [picture(0).resize((90, 40))]
    together = reader(pictures)
    for image, among in zip(pictures, together, strict=True):
        [alone] = reader([image])
        assert alone.prompt == among.prompt and [w for w, _ in alone.words] == [w for w, _ in among.words]
        assert [t for t, _ in alone.retrieved] == [t for t, _ in among.retrieved]
        assert alone.score == pytest.approx(among.score, abs=1e-5)
        assert torch.allclose(alone.embedding, among.embedding, atol=1e-5)
    assert len({r.prompt for r in together}) > 3  # each its own
    with pytest.raises(InputError, match="needs a sentence embedder"):
        replace(reader, embed=None)


def test_the_readable_prompt_is_edited_towards_the_embedding(embed):
    captioner = load_captioner()
    truth = "a blue key on a gray background"
    words = Vocabulary(("blue", "red", "key", "star", "gray"))
    probability = torch.tensor([[0.9, 0.1, 0.9, 0.1, 0.9]])
    candidates = [["a red key on a gray background", "a tree"]]
    [(found, cosine)] = readable_prompts(candidates, embed([truth]), probability, words, embed, captioner.lexicon)
    assert found == truth and cosine == pytest.approx(1, abs=1e-4)


def test_what_the_captioner_sees_decides_between_prompts_that_are_as_near(embed):
    """The embedding says nothing of the colour; the picture does."""
    picture = (
        torch.from_numpy(render(Scene("white", (Thing("star", "red", "big", (18, 18, 46, 45)),)))).permute(2, 0, 1)[
            None
        ]
        / 255
    )
    captioner, words = load_captioner(), Vocabulary.build(["a red star", "a blue star", "a green star"], 10)
    states, even = captioner.encode(picture), torch.full((1, len(words)), 0.5)
    colors = ["a blue star", "a red star", "a green star"]
    middle = torch.nn.functional.normalize(
        torch.linalg.pinv(embed(colors)) @ torch.ones(3), dim=0
    )  # as near to each of them
    seen = lambda texts, image_of: captioner.log_likelihood(states, texts, image_of)  # noqa: E731
    assert int(seen(colors, [0] * 3).argmax()) == 1
    [(found, _)] = readable_prompts([colors], middle[None], even, words, embed, captioner.lexicon, seen)
    assert found == "a red star"


def test_bulk_shards_are_whole_and_done_once(vocabulary, embed, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(5):
        picture(i).save(folder / f"{i}.png")
    (folder / "3.png").write_bytes(b"broken")
    made, paths = Reader(inverter(vocabulary, "clip")), list_images(folder)
    one = invert_files(paths, tmp_path / "o.jsonl", (1, 2), made)
    two = invert_files(paths, tmp_path / "o.jsonl", (2, 2), made)
    assert (one["images"], two["images"]) == (3, 1) and two["skipped"][0]["image"].endswith("3.png")
    files = [tmp_path / f"o-{i:05d}-of-00002.jsonl" for i in (1, 2)]
    names = [Path(json.loads(s)["image"]).name for f in files for s in f.read_text().splitlines()]
    assert sorted(names) == ["0.png", "1.png", "2.png", "4.png"]
    again = [invert_files(paths, tmp_path / "o.jsonl", (i, 2), made) for i in (1, 2)]
    assert all(a["done_before"] for a in again) and [a["skipped"] for a in again] == [[], two["skipped"]]
    for changed, what in (
        ({"paths": paths[1:]}, "pictures"),
        ({"reader": Reader(inverter(vocabulary, "vit"))}, "inverter"),
        ({"reader": replace(made, captioner=load_captioner(), embed=embed)}, "readable"),
    ):
        with pytest.raises(InputError, match=f"there already, and was made with other '{what}'"):
            invert_files(**{"paths": paths, "out": tmp_path / "o.jsonl", "shard": (1, 2), "reader": made, **changed})
    nothing = invert_files(paths[:2], tmp_path / "few.parquet", (3, 3), made)  # a share without a picture is a part too
    assert nothing["images"] == 0 and Path(nothing["out"]).is_file()
    assert parse_shard("3/8") == (3, 8)
    for bad in ("0/2", "3/2", "x", "1/0"):
        with pytest.raises(InputError, match="is not I/N"):
            parse_shard(bad)
    with pytest.raises(InputError, match=r"is none of \.csv"):
        invert_files(paths, tmp_path / "o.txt", (1, 1), made)


def test_domain_adaptation_moves_the_embeddings_alone_and_never_harms(vocabulary, tmp_path):
    made, rng = inverter(vocabulary, "clip"), np.random.default_rng(0)
    for i in range(40):
        Image.new("RGB", (64, 64), tuple(int(v) for v in rng.integers(256, size=3))).save(tmp_path / f"{i:02d}.png")
    paths = list_images(tmp_path)
    table = tmp_path / "labelled.jsonl"
    table.write_text(
        "".join(json.dumps({"image": str(p), "prompt": f"a star {i}"}) + "\n" for i, p in enumerate(paths))
    )
    turn = torch.linalg.qr(torch.randn(384, 384, generator=torch.Generator().manual_seed(0)))[0]
    vectors = made([Image.open(p) for p in paths])[0]
    skipped = PairsFile()
    labelled = labelled_by(
        made, table, lambda texts: vectors @ turn, skipped
    )  # what the inverter says, turned: it can be learnt
    assert labelled[0].shape == labelled[1].shape == (40, 384) and not skipped.skipped
    plain, adapted = (
        invert_files(paths, tmp_path / f"{n}.jsonl", reader=Reader(made), labelled=x)["out"]
        for n, x in (("plain", None), ("adapted", labelled))
    )
    before, after = ([json.loads(s) for s in Path(p).read_text().splitlines()] for p in (plain, adapted))
    own = DomainKernel.best(*labelled, vectors)(vectors)
    for a, b, vector in zip(before, after, own, strict=True):
        assert {w["word"]: w["probability"] for w in b["words"]} == pytest.approx(
            {w["word"]: w["probability"] for w in a["words"]}, abs=1e-5
        )
        assert np.abs(np.subtract(b["embedding"], a["embedding"])).max() > 1e-3 and np.allclose(
            b["embedding"], vector.numpy(), atol=1e-4
        )
    assert made.kernel is None
    with pytest.raises(InputError, match="too few to adapt with"):
        DomainKernel.best(labelled[0][:1], labelled[1][:1], vectors)


def test_domain_adaptation_that_has_learnt_prompts_by_heart_is_refused():
    """Four pictures of each prompt, read with an error that is the same for all four: it can be told again, not
    foretold.
    """
    generator = torch.Generator().manual_seed(0)
    truth = F.normalize(torch.randn(60, 16, generator=generator), dim=-1)
    read = F.normalize(truth + 0.15 * torch.randn(60, 16, generator=generator), dim=-1)
    answers, source = truth.repeat_interleave(4, 0), read.repeat_interleave(4, 0)
    source = F.normalize(source + 0.02 * torch.randn(240, 16, generator=generator), dim=-1)
    half = torch.arange(240) % 2 == 0  # every prompt in both halves
    kernel = DomainKernel.fit(source[half], answers[half], source, 100, 10.0, 1e-4)
    gain = (
        F.cosine_similarity(kernel(source[~half]), answers[~half]).mean()
        - F.cosine_similarity(source[~half], answers[~half]).mean()
    )
    assert gain > 0.005
    with pytest.raises(InputError, match="domain adaptation would harm"):
        DomainKernel.best(source, answers, source, 100)


def test_domain_adaptation_passes_over_a_degenerate_gamma(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    answers = F.normalize(torch.randn(100, 16, generator=generator), dim=-1)
    turned = answers @ torch.linalg.qr(torch.randn(16, 16, generator=generator))[0]  # a turn can be learnt
    monkeypatch.setattr("accord.methods.invert.kernel.GAMMAS", (1e-6, 10.0))
    assert DomainKernel.best(turned, answers, turned).gamma == 10.0
    monkeypatch.setattr("accord.methods.invert.kernel.GAMMAS", (1e-6,))
    with pytest.raises(InputError, match="the kernel is degenerate"):
        DomainKernel.best(turned, answers, turned)


def test_domain_adaptation_with_a_heavy_penalty_is_the_first():
    generator = torch.Generator().manual_seed(0)
    source, answers = (F.normalize(torch.randn(80, 8, generator=generator), dim=-1) for _ in range(2))
    kernel = DomainKernel.fit(source, answers, source, 10, 10.0, 1e6)
    shift = (answers - source).mean(0)  # the intercept has no penalty
    assert torch.allclose(kernel(source), F.normalize(source + shift, dim=-1), atol=1e-4)
    with pytest.raises(InputError, match=r"answers of shape \(80, 4\)"):
        DomainKernel.fit(source, answers[:, :4], source, 10)


def test_words_are_weighted_like_the_embeddings(vocabulary):
    both, pictures = inverter(vocabulary, "clip", "vit"), [picture(0), picture(1)]
    each = [inverter(vocabulary, k) for k in ("clip", "vit")]
    for one, predictor in zip(each, both.predictors, strict=True):
        one.predictors[0].load_state_dict(predictor.state_dict())
    first, second = (o(pictures)[1] for o in each)
    assert torch.allclose(replace(both, weights=[1.0, 0.0])(pictures)[1], first, atol=1e-5)
    assert torch.allclose(replace(both, weights=[1.0, 3.0])(pictures)[1], (first + 3 * second) / 4, atol=1e-5)


def test_huge_pictures_are_not_held_many_at_once(tmp_path, monkeypatch):
    from accord.methods.invert import bulk

    paths = [tmp_path / f"{i}.png" for i in range(5)]
    for path in paths:
        picture().save(path)
    monkeypatch.setattr(bulk, "CHUNK_PIXELS", 64 * 64)
    assert [len(names) for names, _ in bulk._chunks(paths, [])] == [2, 2, 1]


def test_the_embedded_inverter_reads_a_scene(embed):
    scene = Scene(
        "white", (Thing("star", "red", "big", (3, 20, 31, 47)), Thing("key", "blue", "big", (34, 18, 62, 46)))
    )
    image = Image.fromarray(render(scene))
    found = invert(image, bank=["a red star and a blue key", "two green trees", "a purple fish"], embed=embed)[0]
    assert {"star", "key", "red", "blue"} <= {w for w, _ in found.words[:6]}
    assert found.retrieved[0][0] == "a red star and a blue key" and check(scene, ask_of(found.prompt)).right
    score = InversionScore(embed=embed)
    own, other = score(to_tensor([image, image]), ["a red star and a blue key", "two green trees"]).tolist()
    assert own > other + 0.3


def test_inversion_as_a_score(vocabulary, embed):
    made = inverter(vocabulary, "clip", "vit")
    score = InversionScore(made, embed)
    pictures, prompts = [picture(0), picture(1)], ["a red star", "two blue keys"]
    vectors, words = made(pictures)
    expected = []
    for v, p, text in zip(vectors, words, prompts, strict=True):
        held = set(words_of(text))
        logs = [math.log(float(q) if w in held else 1 - float(q)) for w, q in zip(vocabulary.words, p, strict=True)]
        expected.append(float(v @ embed([text])[0]) + 0.02 * sum(logs))
    found = score(to_tensor(pictures), prompts)
    assert found.tolist() == pytest.approx(expected, abs=1e-4) and found[0] != found[1] and not score.differentiable


# --- from pairs to inverter, and back into the denoiser --------------------------------------------------------------
def test_train_inverter_end_to_end(tmp_path, embed):
    rng = np.random.default_rng(1)
    scenes = [sample_scene(rng, "one") for _ in range(40)]
    rows = [{"p": caption(s, rng), "se": 0, "c": 5.0, "st": 2, "sa": "DDIMScheduler"} for s in scenes]
    write_part(tmp_path / "pairs", 1, [Image.fromarray(render(s)) for s in scenes], rows)
    kinds = [PredictorConfig(kind="clip", hidden=16), PredictorConfig(kind="vit", hidden=16)]
    report = train_inverter(
        tmp_path / "pairs", tmp_path / "out", kinds, QUICK, similar=0.999, embed=embed, progress=False
    )
    assert sum(report["split"].values()) == 40 and len(report["predictors"]) == 2
    assert (
        report["ensemble"]["test"]["ci95"][0]
        <= report["ensemble"]["test"]["cosine"]
        <= report["ensemble"]["test"]["ci95"][1]
    )
    saved = Inverter.from_pretrained(tmp_path / "out" / "inverter")
    assert (
        saved([picture()])[0].shape == (1, 384)
        and saved.weights == report["weights"]
        and sum(saved.weights) == pytest.approx(1, abs=1e-3)
    )
    with pytest.raises(InputError, match="2 weights were given for 1 predictors"):
        train_inverter(tmp_path / "pairs", tmp_path / "x", kinds[:1], QUICK, weights=[1, 2], embed=embed)
    with pytest.raises(InputError, match="too few to split"):
        train_inverter(tmp_path / "pairs", tmp_path / "x", kinds, QUICK, limit=5, embed=embed, progress=False)


def test_the_transplant_mixes_and_restores_the_encoder(lab):
    predictor = build(PredictorConfig(kind="unet", hidden=8), 0)
    with torch.no_grad():
        for p in predictor.tower.down_blocks.parameters():
            p.add_(0.01)
    before = {k: v.clone() for k, v in lab.unet.state_dict().items()}
    name = "down_blocks.0.resnets.0.conv1.weight"
    with transplanted(lab, predictor, 0.25):
        assert torch.allclose(lab.unet.state_dict()[name], before[name] + 0.0025, atol=1e-6)
        assert torch.equal(lab.unet.state_dict()["conv_out.weight"], before["conv_out.weight"])
    with perturbed(lab, predictor, 1.0):
        moved = lab.unet.state_dict()[name] - before[name]
        assert float(moved.norm()) == pytest.approx(0.01 * moved.numel() ** 0.5, rel=1e-3)
        assert float(moved.mean().abs()) < 0.002
    assert all(torch.equal(v, before[k]) for k, v in lab.unet.state_dict().items())
    with pytest.raises(InputError, match=r"weight must be in 0\.\.1"), transplanted(lab, predictor, 2.0):
        pass
    with pytest.raises(InputError, match="only a unet predictor"), transplanted(lab, build(PredictorConfig(), 0), 0.5):
        pass
    with pytest.raises(InputError, match="3Pipeline has no U-Net"), transplanted(shared("sd35"), predictor, 0.5):
        pass
    with pytest.raises(InputError, match="does not fit this U-Net"), transplanted(tiny_pipeline(), predictor, 0.5):
        pass


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: PredictorConfig(kind="gan"), "kind"),
        (lambda: PredictorConfig(hidden=-1), "hidden"),
        (lambda: InvertTrainConfig(steps=0), "steps"),
        (lambda: InvertTrainConfig(curriculum="hard"), "curriculum"),
        (lambda: InvertTrainConfig(folds=1), "folds"),
        (lambda: InvertTrainConfig(fold_share=0), "fold_share"),
        (lambda: InvertTrainConfig(fold_similar=0), "fold_similar"),
    ],
)
def test_a_field_out_of_range_is_named(make, field):
    with pytest.raises(ValueError, match=f"{field} must"):
        make()
