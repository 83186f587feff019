"""Rewards on tiny BLIP, BLIP-2 and CLIP models, on the lab's, and on the packaged sentence embedder."""

import importlib
import math
import sys

import pytest
import torch
from conftest import KEY, STAR, picture, tiny_blip, tiny_blip2, tiny_blip2_t5

from accord.data.images import to_tensor
from accord.judges.captioners import load_captioner
from accord.judges.clip import load_clip
from accord.rewards import registry
from accord.rewards.composed import Composed, check_gradient, make_rewards
from accord.rewards.named.caption import CaptionReward
from accord.rewards.named.clip import ClipReward
from accord.rewards.named.contrast import CaptionContrast, swapped
from accord.rewards.named.likelihood import CaptionLikelihood
from accord.rewards.registry import registered, reward_names
from accord.rewards.sentence import load_sentence
from accord.types import InputError

TEXTS = ["a red dog and a blue cat", "two cats"]


def pictures(seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def sentence():
    return load_sentence()


# --- sentence embedder ---------------------------------------------------------------------------------------------
def test_sentence_embeddings_are_unit_vectors_that_know_meaning(sentence):
    a, b, c = sentence(
        ["a red cat to the left of a blue dog", "a blue cat to the left of a red dog", "stock market news"]
    )
    assert a.shape == (384,) and float(a @ a) == pytest.approx(1, abs=1e-5)
    assert float(a @ b) == pytest.approx(0.988, abs=0.01)  # the figure of METHODS: nearly blind to binding
    assert float(a @ c) < 0.3


def test_padding_does_not_change_an_embedding(sentence):
    texts = ["a star", "a very long sentence about two red keys on a gray background and a small green tree"]
    assert torch.allclose(sentence(texts)[0], sentence(texts[:1])[0], atol=1e-5)


# --- each reward ---------------------------------------------------------------------------------------------------
def test_caption_reward_is_the_cosine_of_prompt_and_caption(sentence):
    captioner = load_captioner()
    image = to_tensor(picture(STAR))
    said = captioner.caption(image)
    expected = float((sentence(["a red star"]) * sentence(said)).sum())
    assert float(CaptionReward(captioner, sentence)(image, ["a red star"])) == pytest.approx(expected, abs=1e-5)
    assert not CaptionReward.differentiable


@pytest.mark.parametrize("make", [tiny_blip, tiny_blip2, tiny_blip2_t5])
def test_likelihood_is_per_token(make):
    captioner = make()
    images = pictures()
    found = CaptionLikelihood(captioner)(images, TEXTS)
    for i, text in enumerate(TEXTS):
        whole = captioner.log_likelihood(captioner.encode(images[i : i + 1]), [text], [0])
        tokens = len(captioner.tokenizer(text, add_special_tokens=False).input_ids) + 1
        assert float(found[i].detach()) == pytest.approx(float(whole.detach()) / tokens, abs=1e-4)


@pytest.mark.parametrize("make", [tiny_blip, tiny_blip2, tiny_blip2_t5])
def test_contrast_is_own_against_all_swaps(make):
    captioner = make()
    images = pictures()
    found = CaptionContrast(captioner, ceiling=1e4)(images, TEXTS)
    for i, text in enumerate(TEXTS):
        others = swapped(text, captioner)
        states = captioner.encode(images[i : i + 1])
        logs = [float(captioner.log_likelihood(states, [t], [0])) for t in (text, *others)]
        by_hand = logs[0] - math.log(sum(math.exp(v - max(logs[1:])) for v in logs[1:])) - max(logs[1:])
        assert float(found[i]) == pytest.approx(by_hand, abs=2e-3)
    bounded = CaptionContrast(captioner, ceiling=float(found.max()))(images, TEXTS)
    assert (bounded < found).all() and (bounded.argsort() == found.argsort()).all()


def test_swaps_exchange_one_word_or_two_colours():
    captioner = load_captioner()
    texts = swapped("a red star and a blue key", captioner)
    assert "a blue star and a red key" in texts and "a red star and a blue key" not in texts
    assert "a green star and a blue key" in texts and any(" egg " in f" {t} " for t in texts)
    assert len(texts) == len(set(texts))
    assert "an orange star and a red key" in swapped(
        "a red star and an orange key", captioner
    )  # grammar must not give it away


def test_contrast_sees_binding_and_embeddings_do_not(sentence):
    captioner = load_captioner()
    image = to_tensor(picture(STAR, KEY))
    right, wrong = "a red star and a blue key", "a blue star and a red key"
    contrast = CaptionContrast(captioner)
    assert float(contrast(image, [right])) > float(contrast(image, [wrong])) + 2
    assert float((sentence([right]) * sentence([wrong])).sum()) > 0.95


# --- gradients -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("make", [tiny_blip, tiny_blip2, tiny_blip2_t5])
@pytest.mark.parametrize("kind", [CaptionLikelihood, CaptionContrast])
def test_differentiable_rewards_have_a_gradient(make, kind):
    check_gradient(kind(make()), pictures(), TEXTS)
    check_gradient(ClipReward(load_clip()), pictures(), TEXTS)


def test_a_gradient_of_zero_is_refused():
    class Blind:
        differentiable = True

        def __call__(self, images, prompts):
            return images.sum((1, 2, 3)) * 0

    class Cut:
        differentiable = True

        def __call__(self, images, prompts):
            return images.detach().sum((1, 2, 3))

    for reward in (Blind(), Cut()):
        with pytest.raises(InputError, match="no usable gradient"):
            check_gradient(reward, pictures(), TEXTS)
    with pytest.raises(InputError, match="no gradient; use the strategy raft, grpo, nft or awm"):
        check_gradient(CaptionReward(tiny_blip(), load_clip().text_features), pictures(), TEXTS)


# --- composition ---------------------------------------------------------------------------------------------------
def test_composition_normalises_each_part():
    clip, likelihood = ClipReward(load_clip()), CaptionLikelihood(tiny_blip())
    both = Composed({"clip": clip, "likelihood": likelihood}, {"clip": 0.3, "likelihood": 1.0})
    images = torch.cat([pictures(s) for s in range(4)])
    texts = TEXTS * 4
    parts = both.parts(images, texts)
    both.calibrate(parts)
    expected = sum(w * (parts[k] - parts[k].mean()) / parts[k].std() for k, w in both.weights.items())
    assert torch.allclose(both(images, texts), expected, atol=1e-4)
    assert (
        both.differentiable
        and not Composed({"x": CaptionReward(tiny_blip(), load_clip().text_features)}, {"x": 1}).differentiable
    )


def test_rewards_by_name():
    made = make_rewards({"contrast": 1.0, "clip": 0.3}, tiny_blip())
    assert list(made.rewards) == ["contrast", "clip"]
    with pytest.raises(InputError, match="nonsense is unknown; choose among caption"):
        make_rewards({"nonsense": 1.0})
    with pytest.raises(InputError, match="none"):
        make_rewards({})
    with pytest.raises(ValueError, match="must have the same names"):
        Composed({"clip": ClipReward(load_clip())}, {"caption": 1.0})


def test_the_names_are_those_of_the_files_and_keep_their_order():
    assert reward_names()[:5] == ("caption", "caption-clip", "likelihood", "contrast", "clip")
    assert reward_names() == tuple(registered())
    assert [n for n, r in registered().items() if r.differentiable][:3] == ["likelihood", "contrast", "clip"]
    with pytest.raises(InputError, match=r"a likelihood, contrast(, .*)? or .* reward"):
        check_gradient(CaptionReward(tiny_blip(), load_clip().text_features), pictures(), TEXTS)
    with pytest.raises(ValueError, match="'clip' is registered already"):
        registry.reward("clip")(ClipReward)
    with pytest.raises(ValueError, match="needs 'oracle', which is none of captioner, clip, embed"):
        registry.reward("new", needs=("oracle",))


def test_a_reward_is_given_what_it_needs():
    captioner, clip = tiny_blip(), load_clip()
    bag = lambda texts: torch.ones(len(texts), 1)  # noqa: E731
    made = make_rewards({"caption": 1.0, "caption-clip": 1.0, "clip": 1.0}, captioner, clip, embed=bag).rewards
    assert made["caption"].captioner is made["caption-clip"].captioner is captioner and made["clip"].clip is clip
    assert made["caption"].embed is bag and made["caption-clip"].embed == clip.text_features


def test_a_reward_is_one_file(tmp_path, monkeypatch):
    """Adding it is all that is needed, for `make_rewards`, for its errors and for the command line."""
    (tmp_path / "very_colourful.py").write_text(
        "from accord.rewards.registry import reward\n\n\n"
        "@reward('very-colourful')\n"
        "class VeryColourful:\n"
        "    differentiable = True\n\n"
        "    def __call__(self, images, prompts):\n"
        "        return images.std(1).mean((1, 2))\n"
    )
    monkeypatch.setattr(registry, "_REWARDS", dict(registered()))
    monkeypatch.setattr(registry.named, "__path__", [*registry.named.__path__, str(tmp_path)])
    importlib.invalidate_caches()
    try:
        assert reward_names()[-1] == tuple(registered())[-1] == "very-colourful"
        found = make_rewards({"very-colourful": 1.0})(pictures(), TEXTS)
        assert torch.allclose(found, pictures().std(1).mean((1, 2)))
        with pytest.raises(InputError, match=r"choose among caption, .*, very-colourful"):
            make_rewards({"nonsense": 1.0})
    finally:
        sys.modules.pop("accord.rewards.named.very_colourful", None)


def test_a_reward_that_never_varies_is_refused():
    both = Composed({"clip": ClipReward(load_clip())}, {"clip": 1.0})
    with pytest.raises(InputError, match="reward 'clip' is the same on 8 pictures"):
        both.calibrate({"clip": torch.zeros(8)})
    both.calibrate({"clip": torch.linspace(0, 1e-5, 8)})  # however little it varies
    assert both.combine({"clip": torch.linspace(0, 1e-5, 8)}).std() == pytest.approx(1, abs=1e-3)


def test_a_right_picture_is_ahead_of_all_its_swaps(sentence):
    """The own caption is none of those that it is compared with: else the contrast would never be above 0."""
    score = CaptionContrast(load_captioner(), ceiling=1e4)
    image = to_tensor(picture(STAR))
    assert float(score(image, ["a red star"])) > 1 > -1 > float(score(image, ["a blue key"]))
    assert float(score(image, ["it is"])) == 0  # nothing in it can be exchanged


def test_clip_reward_is_the_cosine():
    clip = load_clip()
    images = pictures()
    found = ClipReward(clip)(images, TEXTS)
    image, text = clip.image_features(images), clip.text_features(TEXTS)
    assert torch.allclose(found, torch.nn.functional.cosine_similarity(image, text), atol=1e-5)


@pytest.mark.parametrize(
    ("mean", "spread", "taken"),
    [(0.0, 1e-7, False), (0.0, 1e-5, True), (1e-3, 5e-7, False), (1e3, 1e-5, False), (1e3, 1e-1, True)],
)
def test_a_spread_is_small_beside_the_scores_own_size(mean, spread, taken):
    both = Composed({"x": ClipReward(load_clip())}, {"x": 1.0})
    values = mean + spread * torch.linspace(-1, 1, 8, dtype=torch.float64)
    if taken:
        both.calibrate({"x": values})
        assert both.scales["x"][0] == pytest.approx(mean) and both.scales["x"][1] > 0
        return
    with pytest.raises(InputError, match="is the same on 8 pictures"):
        both.calibrate({"x": values})
