"""Roles in the text states: registers are copies of their noun with what is said of it, and belong to their phrase."""

import copy

import numpy as np
import pytest
import torch
from conftest import MODELS
from diffusers import StableDiffusionPipeline
from transformers import CLIPTextModel, CLIPTokenizer

from accord.diffusion.registers import REGISTERS_KEY, registers_of
from accord.methods.realign.config import RealignConfig
from accord.methods.realign.fine import build_segments
from accord.methods.realign.layout import plan
from accord.methods.realign.regions import slots
from accord.prompts.phrases import phrases_of
from accord.types import InputError
from accord_lab import recipes
from accord_lab.bench import roles as bench
from accord_lab.recipes import denoiser, roles
from accord_lab.scenes.ask import ask_of
from accord_lab.scenes.grammar import NOTHING, Said, Saying, say
from accord_lab.scenes.scene import Scene, Thing, sample_scene

STAR = Thing("star", "red", "big", (2, 20, 30, 47))
KEY = Thing("key", "blue", "small", (34, 22, 54, 42))
RELATED = Saying(color=1, size=1, background=0, relation=1, opening=0, paraphrase=0)


@pytest.fixture(scope="module")
def tokenizer():
    return CLIPTokenizer.from_pretrained(MODELS / "pipeline" / "tokenizer")


@pytest.fixture(scope="module")
def tower():
    return CLIPTextModel.from_pretrained(MODELS / "pipeline" / "text_encoder").eval()


def said(*things: Thing) -> Said:
    return say(Scene("gray", things), np.random.default_rng(0), RELATED)


def test_a_caption_is_marked_as_the_parser_reads_it():
    rng = np.random.default_rng(3)
    for _ in range(40):
        found = say(sample_scene(rng), rng)
        asked, prompt = ask_of(found.text), phrases_of(found.text)
        assert len(asked.things) == len(found.things)
        for marked, thing, number in zip(found.things, asked.things, prompt.things, strict=True):
            assert (marked.noun, marked.color, marked.size, marked.count) == (
                thing.noun,
                thing.color,
                thing.size,
                thing.count,
            )
            assert marked.head == prompt.phrases[number].head.start, found.text
        told = {(0, marked.role, 1) for marked in found.things[:1] if marked.role}
        assert told == set(asked.relations), found.text


def test_labels_say_what_the_caption_says(tokenizer):
    captions = [said(STAR, KEY), said(KEY), NOTHING]
    ids, labels = roles.label(captions, tokenizer)
    word = {kind: labels.words[kind][0, :2].tolist() for kind in roles.KINDS}
    known = {kind: [roles.KINDS[kind][n - 1] for n in numbers] for kind, numbers in word.items()}
    assert known == {"role": ["left", "right"], "count": [1, 1], "size": ["big", "small"], "color": ["red", "blue"]}
    assert labels.words["role"][1:].sum() == 0 and (labels.nouns[2] == -1).all() and not labels.phrases[2].any()
    tokens = [tokenizer.decode(ids[0, n]).strip() for n in labels.nouns[0, :2]]
    assert tokens == ["star", "key"]
    words = [tokenizer.decode(i).strip() for i in ids[0][labels.phrases[0, 1]]]
    assert words == ["a", "small", "blue", "key"]


def test_a_register_is_its_noun_with_its_role_and_nothing_else_changes(tokenizer, tower):
    ids, labels = roles.label([said(STAR, KEY), said(KEY, STAR), NOTHING], tokenizer)
    norm = roles.final_norm(tower)
    with torch.no_grad():
        old = tower(ids).last_hidden_state
        target, weight = roles.targets(old, labels, norm)
    first, second, third = roles.registers(ids.shape[1])
    assert [first, second, third] == [[26, 27], [28, 29], [30, 31]]
    changed = (target != old).any(-1)
    phrase = labels.phrases[0, 1]
    assert changed[0].nonzero().flatten().tolist() == sorted([*phrase.nonzero().flatten().tolist(), *first, *second])
    assert not changed[2].any() and torch.equal(weight > 1, changed)

    def inner(states: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize((states - norm.bias) / norm.weight, dim=-1)

    vectors = roles.codes(old.shape[-1])["role"]
    left, right = (
        torch.nn.functional.normalize(vectors[1 + roles.KINDS["role"].index(r)], dim=-1) for r in ("left", "right")
    )
    for row, noun, positions, own, other in ((0, 0, first, left, right), (0, 1, second, right, left)):
        for position in positions:
            state = inner(target[row, position])
            assert state @ own > 0.5 > 0.3 > abs(state @ other)
            assert state @ inner(old[row, labels.nouns[row, noun]]) > 0.3
    # the second register tells the size, the first does not
    big = torch.nn.functional.normalize(
        roles.codes(old.shape[-1])["size"][1 + roles.KINDS["size"].index("big")], dim=-1
    )
    assert inner(target[0, 27]) @ big > inner(target[0, 26]) @ big + 0.2


def test_mixing_nothing_in_is_the_state_itself(tower):
    norm = roles.final_norm(tower)
    with torch.no_grad():
        inner = torch.randn(5, norm.normalized_shape[0])
        states = norm(inner)
        assert torch.allclose(roles.mix(states, torch.zeros_like(states), norm), states, atol=1e-5)
        added = torch.randn_like(states)
        expected = torch.nn.functional.layer_norm((states - norm.bias) / norm.weight + added, inner.shape[-1:])
        assert torch.allclose(roles.mix(states, added, norm), expected * norm.weight + norm.bias, atol=1e-4)


def test_registers_count_as_their_phrase_where_there_is_one():
    tokens = torch.zeros(2, 3, 32)
    tokens[0, 0, 2] = tokens[0, 1, 5] = 1
    found = roles.registers_as_phrases(tokens, roles.registers(32))
    assert found[0, 0].nonzero().flatten().tolist() == [2, 26, 27]
    assert found[0, 1].nonzero().flatten().tolist() == [5, 28, 29]
    assert not found[0, 2].any() and not found[1].any()
    assert torch.equal(roles.registers_as_phrases(tokens, []), tokens)


def test_registers_of_an_encoder_are_what_its_configuration_says(tower):
    other = copy.deepcopy(tower)
    assert registers_of(None) == []
    setattr(other.config, REGISTERS_KEY, [[26, 27], [28, "x"]])
    assert registers_of(other) == [[26, 27], [28]]


@pytest.fixture(scope="module")
def learnt(tmp_path_factory):
    """A lab folder whose tower has learnt its roles for a few steps."""
    folder = tmp_path_factory.mktemp("roles")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(roles, "POOL", 80)
        patch.setattr(roles, "HELD_OUT", 16)
        recipes.train("roles", folder, steps=4, start=MODELS)
    return folder


def test_the_tower_learns_its_roles_and_the_folder_is_a_plain_pipeline(learnt, tmp_path, tower, tokenizer):
    """The registers come nearer to what they shall be, and a pipeline of diffusers loads the tower."""
    pipe = StableDiffusionPipeline.from_pretrained(learnt / "pipeline")
    assert registers_of(pipe.text_encoder) == [[26, 27], [28, 29], [30, 31]]
    ids, labels = roles.label([said(STAR, KEY)], tokenizer)
    with torch.no_grad():
        old, new = (t(ids).last_hidden_state for t in (tower, pipe.text_encoder))
        target, _ = roles.targets(old, labels, roles.final_norm(tower))
    assert (new - target)[0, 26:30].norm() < (old - target)[0, 26:30].norm()
    with pytest.raises(InputError, match="roles go into the text tower of a finished pipeline"):
        recipes.train("roles", tmp_path, steps=1)


class Enough(Exception):
    """The test has seen what it wanted."""


def test_the_text_objective_in_closed_form(tmp_path, monkeypatch, tower, tokenizer):
    """Relative, weighted squared errors of captions, and those of the empty prompt, which must stay, beside them."""
    monkeypatch.setattr(roles, "POOL", 80)
    monkeypatch.setattr(roles, "HELD_OUT", 16)
    captions, made = roles.captions, []
    monkeypatch.setattr(roles, "captions", lambda count, seed: made.extend(captions(count, seed)) or made)

    def look(run, loss_fn, *_):
        new, old = run.modules["text"].eval(), tower
        with torch.no_grad():
            roles.final_norm(new).bias += 0.3
            found = float(loss_fn(1, torch.Generator().manual_seed(2))[0])
            ids, labels = roles.label(
                [NOTHING, *made], CLIPTokenizer.from_pretrained(MODELS / "pipeline" / "tokenizer")
            )
            before = old(ids).last_hidden_state
            target, weight = roles.targets(before, labels, roles.final_norm(old))
            errors = weight * (new(ids).last_hidden_state - target).square().sum(-1) / before.square().sum(-1).mean()
        drawn = torch.randint(1, len(ids) - 16, (64,), generator=torch.Generator().manual_seed(2))
        assert errors[0].mean() > 0.01  # the empty prompt has moved
        assert found == pytest.approx(float(errors[drawn].mean() + roles.EMPTY * errors[0].mean()), rel=1e-4)
        raise Enough

    monkeypatch.setattr(roles.Run, "train", look)
    with pytest.raises(Enough):
        recipes.train("roles", tmp_path, steps=4, start=MODELS)


def test_the_denoiser_goes_on_from_registers_with_pairs_and_keeps_its_tower(learnt, tmp_path, monkeypatch):
    """Pairs first, then their share; the text term is how far the tower has moved, and is added."""
    monkeypatch.setattr(denoiser, "SCENES", 60)
    monkeypatch.setattr(denoiser, "CENTRED", 4)
    monkeypatch.setattr(denoiser, "encode_scenes", lambda *_: torch.randn(64, 4, 16, 16))
    pairs, drawn = denoiser.related_pool(0), []
    scene_of = denoiser.scene_of
    monkeypatch.setattr(denoiser, "scene_of", lambda i, seed: drawn.append(i) or scene_of(i, seed))

    def look(run, loss_fn, *_):
        shares = []
        for step in (0, 50):
            drawn.clear()
            loss, logs = loss_fn(step, torch.Generator().manual_seed(0))
            shares.append(float(np.isin(drawn, pairs).mean()))
            assert logs["text"] == 0 and float(loss.detach()) == pytest.approx(
                logs["error"] + denoiser.GROUNDING * logs["contest"], rel=1e-5
            )
        assert shares[0] == 1 > shares[1] > 0
        tower = run.modules["text"]
        with torch.no_grad():
            roles.final_norm(tower).bias += 0.5
        loss, logs = loss_fn(0, torch.Generator().manual_seed(0))
        assert logs["text"] > 0.05
        assert float(loss.detach()) == pytest.approx(
            logs["error"] + denoiser.GROUNDING * logs["contest"] + denoiser.KEEP_TEXT * logs["text"], rel=1e-5
        )
        raise Enough

    monkeypatch.setattr(denoiser.Run, "train", look)
    with pytest.raises(Enough):
        denoiser.train(tmp_path, steps=100, batch_size=12, start=learnt)


def test_pairs_of_unlike_things(monkeypatch):
    monkeypatch.setattr(denoiser, "SCENES", 200)
    pool = denoiser.related_pool(0)
    for index in range(200):
        things = denoiser.scene_of(index, 0).things
        assert (index in pool) == (len(things) == 2 and things[0].noun != things[1].noun)


class _Where:
    """Where the tokens of one prompt are, without a pipeline."""

    size = (4, 4)

    def __init__(self, spans):
        self.spans = [spans]


def test_realign_gives_registers_to_the_region_of_their_thing():
    text = "a red star and a blue key"
    prompt = phrases_of(text)
    spans = [None, (0, 1), (2, 5), (6, 10), (11, 14), (15, 16), (17, 21), (22, 25), None, None, None, None, None]
    layout = plan(prompt, slots(prompt), [], np.stack([np.eye(4, dtype=np.float32)] * 2))
    config = RealignConfig(background=1.0)
    plain = build_segments(_Where(spans), [prompt], [layout], config).tokens[0]
    told = build_segments(_Where(spans), [prompt], [layout], config, [[9, 10], [11, 3], [12]]).tokens[0]
    order = [prompt.things.index(region.phrase) for region in layout]
    gained = [sorted(((t > 0) & (p == 0)).nonzero().flatten().tolist()) for t, p in zip(told, plain, strict=True)]
    for k, thing in enumerate(order):
        assert gained[k] == ([9, 10], [11])[thing]  # 3 is a word of the text
    background = told[len(order)]
    assert background[12] == 1 and not background[[9, 10, 11]].any()  # of a thing that the prompt has not: of the rest


def test_prompts_said_otherwise():
    pair = say(Scene("gray", (STAR, KEY)), np.random.default_rng(0), bench.TOLD)
    assert pair.text == "a red star to the left of a blue key"
    assert bench.swapped(pair, "relation") == "a red star to the right of a blue key"
    assert bench.swapped(pair, "noun") == "a red key to the left of a blue star"
    assert bench.swapped(pair, "color") == "a blue star to the left of a red key"
    egg = say(Scene("gray", (STAR, Thing("egg", "orange", "big", KEY.box))), np.random.default_rng(0), bench.TOLD)
    assert bench.swapped(egg, "noun") == "a red egg to the left of an orange star"
    assert bench.swapped(egg, "color") == "an orange star to the left of a red egg"


def test_the_bench_of_roles_runs_whole(tmp_path):
    """The embedded denoiser knows nouns, and an exchange moves their states."""
    data, text = bench.Roles(out=tmp_path, plan=bench.Plan(24), progress=False).run()
    rows = {row["said"]: row for row in data["rows"]}
    assert list(rows) == list(bench.KINDS.values()) and all(said in text for said in rows)
    assert rows["nouns exchanged"]["right"] > 0.65 and rows["nouns exchanged"]["gap"] > 0.03
    assert rows["nouns exchanged"]["noun 1"] > 0.5 > rows["the opposite relation"]["noun 1"]
