"""Judges of every kind, on tiny models of the real classes; CLIP-FlanT5, Soft-TIFA and calibration."""

import copy
import json
import math
import warnings
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import tiny_judges
import torch
import transformers as T
from conftest import MODELS, STAR, is_held, picture, tiny_blip
from PIL import Image
from safetensors.torch import save_file
from tiny_judges import CHAT, fresh, shared
from torch import nn
from zoo import t5_tokenizer

import accord
from accord.data.images import to_pil, to_tensor
from accord.judges.calibrate import Calibrated, Calibration, calibrate, fit
from accord.judges.chat import ChatJudge, _Seen
from accord.judges.contrast import ClipJudge
from accord.judges.diagnosis import align
from accord.judges.pixels import KNOWN, follow
from accord.judges.processors import of_pictures
from accord.judges.protocol import Answers, Judge, Question
from accord.judges.questions import Asked, as_judge, checks, weighed
from accord.judges.regions import WITHIN, align_regions, with_box
from accord.judges.vqascore import ASKED_OF_T5, ClipFlanT5, means, soft_tifa, spellings, vqa_score
from accord.methods.realign.regions import describe
from accord.prompts.phrases import phrases_of
from accord.rewards.composed import check_gradient
from accord.types import InputError, Notice, Region

QUESTIONS = [
    Question("Is there a red star in the picture? Answer yes or no."),
    Question("How many?", (("two", "2"), ("one", "1"), ("three", "3"))),
    Question("What color is the key in the picture? Answer in one word.", (("red", "Red"), ("blue", "Blue"))),
]
SHARING = ("qwen25", "qwen3", "idefics3", "llava", "internvl")
GRADED = ("qwen25", "qwen3", "idefics3", "llava", "paligemma")


def noise(count=2, height=48, width=64):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def probabilities(answers):
    return np.concatenate(answers)


# answers ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", SHARING)
def test_questions_that_share_a_picture_are_answered_as_one_by_one(name):
    judge, images = fresh(name), noise()
    together = judge.answer(images, QUESTIONS * 2, [0, 0, 0, 1, 1, 1])
    assert judge.shares is True
    alone = [judge.answer(images, [q], [i])[0] for i in (0, 1) for q in QUESTIONS]
    assert np.allclose(probabilities(together), probabilities(alone), rtol=1e-4)
    # nothing of this is trivial: the picture and the question make a difference
    assert not np.allclose(together[0], together[3], rtol=1e-2)
    other = judge.answer(images, [replace(QUESTIONS[0], text="Is there a blue key?")], [0])[0]
    assert not np.allclose(together[0], other, rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "tower"), [("qwen3", "visual"), ("llava", "vision_tower"), ("idefics3", "vision_model")]
)
def test_a_picture_goes_through_the_tower_once_for_all_its_questions(name, tower):
    judge, images = fresh(name), noise()
    judge.shares, seen = True, []
    hook = getattr(judge.model.model, tower).register_forward_hook(lambda *_: seen.append(1))
    for judge.batches, passes in ((False, 2), (True, 1)):
        seen.clear()
        judge.answer(images, QUESTIONS * 2, [0, 0, 0, 1, 1, 1])
        assert len(seen) == passes
    hook.remove()


@pytest.mark.parametrize("name", SHARING)
def test_pictures_that_are_encoded_together_are_answered_as_one_by_one(name, monkeypatch):
    monkeypatch.setattr("accord.judges.chat.TOGETHER", 2)
    judge, images, texts = fresh(name), noise(3), ["a red star", "two", "a blue key", "a"]
    asked, image_of = [*QUESTIONS, QUESTIONS[0], QUESTIONS[1]], [0, 0, 2, 1, 2]
    found = judge.answer(images, asked, image_of), judge.log_likelihood(images, texts, [2, 0, 0, 1])
    assert judge.batches is True
    judge.batches = False
    alone = judge.answer(images, asked, image_of), judge.log_likelihood(images, texts, [2, 0, 0, 1])
    assert np.allclose(probabilities(found[0]), probabilities(alone[0]), rtol=1e-4)
    assert torch.allclose(found[1], alone[1], atol=1e-3)
    assert not torch.allclose(found[1], found[1].flip(0), atol=1e-2)


# gradients ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", GRADED)
@pytest.mark.filterwarnings("ignore::accord.types.Notice")
def test_what_a_chat_model_answers_has_a_gradient_and_going_up_it_raises_yes(name):
    judge, images = fresh(name), noise(2).requires_grad_(True)
    found = judge.probabilities(images, [*QUESTIONS[:2], QUESTIONS[0]], [0, 0, 1])
    usual = judge.answer(images, [*QUESTIONS[:2], QUESTIONS[0]], [0, 0, 1])
    assert np.allclose(probabilities([p.detach().numpy() for p in found]), probabilities(usual), rtol=1e-4)
    (slope,) = torch.autograd.grad(found[0][0].log(), images)
    assert slope[0].abs().max() > 0 and slope.isfinite().all() and not slope[1].any()
    up, down = ((images.detach() + by / 255 * slope.sign()).clamp(0, 1) for by in (2, -2))
    above, below = (judge.answer(moved, QUESTIONS[:1], [0])[0][0] for moved in (up, down))
    assert above > usual[0][0] > below


@pytest.mark.parametrize("name", GRADED)
def test_pictures_are_prepared_with_gradients_as_the_processor_prepares_them(name):
    judge, level = shared(name), 1 / 255
    own = judge.processor.image_processor
    for height, width in ((64, 64), (50, 90), (91, 60)):
        images = noise(2, height, width)
        values = own([[p] for p in to_pil(images)], return_tensors="pt")["pixel_values"]
        off = (KNOWN[type(own).__name__](own, images) - values).abs() * min(own.image_std)
        assert off.mean() < 0.6 * level  # it rounds after each pass; and Pillow may go down before it goes across
        same = follow(own, images, values)
        assert torch.equal(same, values)
    with pytest.raises(InputError, match="in a way that has no gradient here"):
        follow(own, images, values + 0.1)


def test_judges_without_gradients_say_so():
    judge = fresh("internvl")
    assert not judge.differentiable
    with pytest.raises(InputError, match="gives no gradients: how GotOcr2ImageProcessorPil prepares"):
        judge.probabilities(noise(1).requires_grad_(True), QUESTIONS[:1], [0])
    with pytest.raises(InputError, match="gives no gradients"):
        judge.log_likelihood(noise(1).requires_grad_(True), ["a"], [0])


def test_a_reward_is_tuned_by_a_chat_model_with_gradients():
    made, images, prompts = accord.make_rewards({"likelihood": 1.0}, fresh("qwen3")), noise(1), ["a red star"]
    check_gradient(made, images, prompts)
    pixels = images.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad(made(pixels, prompts).sum(), pixels)
    with torch.no_grad():
        low, high = (made(images + by / 255 * slope.sign(), prompts).sum() for by in (-1, 1))
    assert low < high


def test_a_model_whose_picture_sees_the_question_is_asked_one_by_one_and_says_so():
    judge, images = fresh("paligemma"), noise()
    with pytest.warns(Notice, match="asked one by one"):
        together = judge.answer(images, QUESTIONS, [0, 0, 1])
    assert judge.shares is False
    alone = [judge.answer(images, [q], [i])[0] for q, i in zip(QUESTIONS, [0, 0, 1], strict=True)]
    assert np.allclose(probabilities(together), probabilities(alone), rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error", Notice)  # once is enough
        judge.answer(images, QUESTIONS, [0, 0, 1])


def test_answers_do_not_depend_on_order_batch_or_the_pictures_beside(monkeypatch):
    judge, images = shared("qwen3"), noise(3)
    whole = judge.answer(images, QUESTIONS * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2])
    backwards = judge.answer(images.flip(0), (QUESTIONS * 3)[::-1], [0, 0, 0, 1, 1, 1, 2, 2, 2])
    assert np.allclose(probabilities(whole), probabilities(backwards[::-1]), rtol=1e-4)
    monkeypatch.setattr("accord.judges.chat.CHUNK", 2)
    assert np.allclose(
        probabilities(whole), probabilities(judge.answer(images, QUESTIONS * 3, [0, 0, 0, 1, 1, 1, 2, 2, 2]))
    )


@pytest.mark.parametrize("name", ["qwen25", "paligemma"])
def test_an_answer_is_the_sum_over_the_first_tokens_of_its_spellings(name):
    """Brute force: one whole run of processor and model, and the softmax of the last logits."""
    judge, images = shared(name), noise(1)
    inputs = judge.processor(
        text=[judge._asked(QUESTIONS[0].text)], images=to_pil(images), return_tensors="pt", add_special_tokens=False
    )
    inputs.pop("labels", None)
    with torch.no_grad():
        odds = judge.model(**inputs).logits[0, -1].softmax(-1)
    vocab = judge.tokenizer.get_vocab()
    # what the tokenizers make of them: whole words with and without a space, or letters
    forms = (("Yes", "ĠYes", "yes", "Ġyes"), ("No", "ĠNo", "no", "Ġno")) if name == "qwen25" else ("Yy", "Nn")
    found = judge.answer(images, [QUESTIONS[0]], [0])[0]
    for share, own in zip(found, [sorted(vocab[f] for f in answer) for answer in forms], strict=True):
        assert share == pytest.approx(float(odds[own].sum()), rel=1e-4)


def test_an_answer_that_begins_as_another_one_is_not_told_apart():
    judge = shared("qwen25")  # knows neither word: both begin with the letter p
    mixed = Question("What color?", (("purple",), ("pink",), ("red",)))
    found = judge.answer(noise(1), [mixed], [0])[0]
    assert np.isnan(found[:2]).all() and found[2] > 0
    seen = align(noise(1), ["a red star on a pink background"], judge, captions=False)[0]
    assert "pink" in seen.unjudged and "red" not in seen.unjudged  # what is not judged is not averaged in
    red = next(w for w in seen.words if w.word.text == "red")
    assert red.reads_as not in ("pink", "purple") and 0 < red.against < len(judge.lexicon.colors) - 1
    assert seen.overall == pytest.approx(float(np.exp(np.mean([np.log(w.probability) for w in seen.words]))))


def test_rivals_that_are_not_told_apart_are_left_out_and_the_word_is_judged():
    nan = math.nan
    check = next(c for c in checks(phrases_of("a red star")) if c.word.kind == "color")
    odds = np.full(len(check.names), nan)
    odds[[0, 3, 4]] = 0.2, 0.1, 0.5
    found = check.score(odds)
    assert found.probability == pytest.approx(0.25) and found.against == 2
    assert (found.reads_as, found.reads_as_probability) == (check.names[4], pytest.approx(0.625))
    odds[[3, 4]] = nan
    assert check.score(odds) is None  # no rival is left
    odds[0], odds[3] = nan, 0.5
    assert check.score(odds) is None  # nor is the word itself told from another
    assert weighed(np.array([0.4])) == [0]  # where no rival is asked about, none is needed
    assert weighed(np.array([0.4, nan])) == weighed(np.array([nan])) == []


# one at a time ------------------------------------------------------------------------------------------------------
@contextmanager
def only_held(network, thing):
    """Each forward pass of `network`, and there has to be one, finds `thing` held."""
    found = []
    hook = network.register_forward_pre_hook(lambda *_: found.append(is_held(thing)))
    yield
    hook.remove()
    assert found and all(found)


def test_a_model_that_runs_is_held_whoever_asks_for_it(tmp_path):
    chat, images = fresh("qwen3"), noise(1, 56, 56)
    chat.shares = True
    pil = to_pil(images)[0]
    for run in (
        lambda: chat.answer(images, QUESTIONS[:1], [0]),
        lambda: chat.answer_logits(pil, [q.text for q in QUESTIONS[:2]]),
        lambda: chat.caption(images, max_new_tokens=1),
        lambda: chat.log_likelihood(images, ["a"], [0]),
    ):
        with only_held(chat.model, chat.model):
            run()
    blip = accord.load_captioner()
    states = blip.encode(images)
    for tower, run in (
        (blip.model.vision_model, lambda: blip.encode(images)),
        (blip.model.text_decoder, lambda: blip.log_likelihood(states, ["a"], [0])),
        (blip.model.text_decoder, lambda: blip.caption(images, max_new_tokens=1)),
    ):
        with only_held(tower, blip.model):
            run()
    clip = accord.load_judge(str(MODELS / "clip")).scorer
    for tower, run in (
        (clip.model.vision_model, lambda: clip.image_features(images)),
        (clip.model.text_model, lambda: clip.text_features(["a"])),
    ):
        with only_held(tower, clip.model):
            run()
    asked = ClipFlanT5.from_pretrained(flan(tmp_path)[0])
    for network in (asked.tower, asked.t5):
        with only_held(network, network):
            asked.score(images, ["a star"])


def leaning(name, word, by=9.0):
    """A judge whose first word is as good as always `word`: its bias on the last layer is set."""
    judge = fresh(name)
    head = judge.model.get_output_embeddings()
    bias = nn.Linear(head.in_features, head.out_features)
    bias.weight.data = head.weight.data
    bias.bias.data = torch.zeros(head.out_features)
    bias.bias.data[sorted(judge.first_tokens(word))] = by
    judge.model.set_output_embeddings(bias.requires_grad_(False))
    return judge


@pytest.mark.parametrize("name", ["qwen3", "paligemma"])
@pytest.mark.filterwarnings("ignore::accord.types.Notice")
def test_a_judge_that_says_yes_bears_out_what_is_there_and_denies_what_is_not_to_be(name):
    prompt = "a red star to the left of a blue key, no fish"
    for word, there, absent in (("Yes", 1, 0), ("No", 0, 1)):
        seen = align(noise(1), [prompt], leaning(name, word), captions=False)[0]
        by = {w.word.text: w for w in seen.words}
        assert [by[t].probability for t in ("star", "key", "to the left of")] == pytest.approx([there] * 3, abs=0.02)
        assert by["fish"].probability == pytest.approx(absent, abs=0.02) and by["fish"].reads_as == "fish"
        assert by["star"].reads_as == "no"
        assert seen.judged(by["star"]) == (
            f"answer to 'Is there a star in the picture? Answer yes or no.', by {shared(name).name}"
        )


def test_a_judge_that_counts_two_reads_other_numbers_so():
    right, wrong = (
        next(
            w for w in align(noise(1), [p], leaning("qwen3", "two"), captions=False)[0].words if w.word.kind == "count"
        )
        for p in ("two stars", "three stars")
    )
    assert right.probability > 0.95 and wrong.probability < 0.05 and wrong.reads_as == "two"


def test_a_likelihood_ends_where_the_model_stops_when_it_writes():
    judge, images = fresh("qwen25"), noise(1)
    usual = judge.log_likelihood(images, ["a"], [0])
    judge.tokenizer = copy.deepcopy(judge.tokenizer)
    judge.tokenizer.eos_token = "<|endoftext|>"  # the end of a text, and not of a turn
    assert judge.log_likelihood(images, ["a"], [0]) == usual
    judge.model.generation_config.eos_token_id = [judge.model.generation_config.eos_token_id, 0]
    assert judge.log_likelihood(images, ["a"], [0]) == usual
    judge.model.generation_config.eos_token_id = None
    assert judge.log_likelihood(images, ["a"], [0]) != usual  # what its tokenizer ends with, for want of another
    judge.tokenizer.eos_token = None
    with pytest.raises(InputError, match="names no token that ends its answers"):
        judge.log_likelihood(images, ["a"], [0])


@pytest.mark.parametrize("name", ["qwen25", "paligemma", "llava"])
def test_likelihood_of_a_text_is_that_of_the_whole_answer(name):
    """Brute force: token after token, each with a run of its own; the prompt's tokens see what they saw before."""
    judge, images, text = shared(name), noise(2), "a red star"
    both = judge.log_likelihood(judge.encode(images), [text, "two", text], [0, 1, 1])
    inputs = judge._inputs(_Seen(to_pil(images)[1:]), judge._describing)
    ids = [*judge.tokenizer(text, add_special_tokens=False).input_ids, judge.tokenizer.eos_token_id]
    total = 0.0
    for token in ids:
        with torch.no_grad():
            total += float(judge.model(**inputs).logits[0, -1].log_softmax(-1)[token])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([[token]])], 1)
        for key, value in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 1)):
            if key in inputs:
                inputs[key] = torch.cat([inputs[key], torch.tensor([[value]])], 1)
    assert float(both[2]) == pytest.approx(total, abs=1e-3)
    assert abs(float(both[0] - both[2])) > 1e-3


@pytest.mark.parametrize("name", sorted(CHAT))
def test_each_model_writes_captions_and_regions_are_judged(name):
    judge = shared(name)
    assert all(isinstance(c, str) for c in judge.caption(noise(2), max_new_tokens=3))
    prompt = phrases_of("two red stars and a blue key")
    regions = [Region(0, (0.0, 0.0, 0.5, 0.6), np.ones((4, 4), np.float32))]
    found = describe(noise(1)[0], prompt, regions, judge, captions=False)
    assert 0 < found[0].deficit < 1


# questions ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        (
            "two red stars to the left of a big key on a white background",
            {
                "two": "How many red stars are there in the picture? Answer with a number.",
                "red": "What color are the stars? Answer in one word.",
                "stars": "Are there stars in the picture? Answer yes or no.",
                "to the left of": "Are the stars to the left of the key? Answer yes or no.",
                "big": "Is there a big key in the picture? Answer yes or no.",
                "white": "What color is the background? Answer in one word.",
            },
        ),
        (
            "a boy holding a kite, no cars",
            {
                "holding": 'Does the picture show "a boy holding a kite"? Answer yes or no.',
                "cars": "Are there any cars in the picture? Answer yes or no.",
            },
        ),
        (
            "a red star behind a blue star",
            {
                "red": "Is there a red star in the picture? Answer yes or no.",
                "behind": "Is the red star behind the blue star? Answer yes or no.",
            },
        ),
        (
            "an orange wooden table in snow with 'OPEN' on a sign",
            {
                "orange": "What color is the table? Answer in one word.",
                "wooden": "Is there a wooden table in the picture? Answer yes or no.",
                "snow": "Is there snow in the picture? Answer yes or no.",
                "OPEN": 'Is the text "OPEN" written in the picture? Answer yes or no.',
            },
        ),
        ("12 cats", {"12": "Are there exactly 12 cats in the picture? Answer yes or no."}),
    ],
)
def test_each_word_has_its_question(prompt, asked):
    found = checks(phrases_of(prompt))
    by = {c.word.text: c.question.text for c in reversed(found)}
    assert {text: by[text] for text in asked} == asked
    assert all(len(c.names) == len(c.question.answers) for c in found)
    assert [c.word.start for c in found] == sorted(c.word.start for c in found)


def test_the_expected_answer_comes_first_and_its_like_count_for_it():
    found = {c.word.text: c for c in checks(phrases_of("three grey cats, no dog"))}
    assert found["three"].names[0] == "three" and found["three"].question.answers[0] == ("3", "three", "Three")
    assert found["grey"].names[0] == "grey" and "gray" not in found["grey"].names
    assert {"gray", "Gray", "grey"} <= set(found["grey"].question.answers[0])
    assert found["dog"].names == ("no", "yes") and "No" in found["dog"].question.answers[0]
    assert checks(phrases_of("ein roter Stern auf dem Tisch und eine blaue Blume")) == []


class Fixed:
    """Answers every question in the same way."""

    name = "fixed"

    def __init__(self, first):
        self.first, self.asked = first, []

    def answer(self, images, questions, image_of):
        self.asked += [(q.text, i) for q, i in zip(questions, image_of, strict=True)]
        rest = (1 - self.first) / 2
        return [np.array([self.first / 2, *[rest / (len(q.answers) - 1)] * (len(q.answers) - 1)]) for q in questions]


def test_anything_that_answers_questions_is_a_judge():
    judge = Fixed(0.8)
    assert isinstance(judge, Answers) and isinstance(as_judge(judge), Asked)
    assert all(isinstance(j, Judge) for j in (shared("qwen3"), tiny_blip()))
    found = accord.score(picture(STAR), "a red star", judge)[0].alignment
    assert found.overall == pytest.approx(0.8) and [w.probability for w in found.words] == pytest.approx([0.8] * 3)
    assert found.caption == "" and found.caption_reward is None and found.judge == "fixed"
    assert found.to_dict()["words"][1]["judged"].startswith("answer to 'What color is the star?")


def test_text_in_the_picture_is_judged_by_questions_and_not_by_likelihood():
    prompt = "a sign with 'OPEN' on it"
    by_answers = align(noise(1), [prompt], Fixed(0.8), captions=False)[0]
    by_captions = align(noise(1), [prompt], tiny_blip(), captions=False)[0]
    assert "OPEN" not in by_answers.unjudged and "OPEN" in by_captions.unjudged


# regions ------------------------------------------------------------------------------------------------------------
BOX = (0.25, 0.25, 0.75, 0.5)


def test_a_box_is_drawn_around_a_region_and_leaves_its_inside(tmp_path):
    image = torch.full((3, 80, 120), 0.5)
    drawn = with_box(image, BOX)
    assert torch.equal(drawn[:, 20:40, 30:90], image[:, 20:40, 30:90])
    assert (drawn[:, 19, 30:90] == 1).all() and (drawn[:, 18, 30:90] == 0).all() and (drawn[:, 17] == 0.5).all()
    assert (drawn[:, 20:40, 90] == 1).all() and (drawn[:, 20:40, 91] == 0).all() and (drawn[:, :, 92:] == 0.5).all()
    assert torch.equal(with_box(image, (0.0, 0.0, 1.0, 1.0)), image)  # there is no room for lines, and no need


def test_a_judge_looks_into_boxes_that_are_drawn_or_at_crops():
    image, prompts = noise(1)[0], [phrases_of("a red star"), phrases_of("a key")]
    seen = []

    class Looks(Fixed):
        def answer(self, images, questions, image_of):
            seen.append(images)
            return super().answer(images, questions, image_of)

    judge = Looks(0.8)
    for judge.regions, sizes, start in (("crop", (448, 448), "Is there"), ("box", (48, 64), f"{WITHIN} Is there")):
        judge.asked = []
        found = align_regions(image, [BOX, BOX], prompts, as_judge(judge), captions=False)
        assert [a.overall for a in found] == pytest.approx([0.8, 0.8])
        assert seen.pop().shape == (2, 3, *sizes) and judge.asked[1][0].startswith(start.replace("Is there", ""))
        assert [text.startswith(start) for text, _ in judge.asked].count(True) >= 2
    calibrated = Calibrated(as_judge(judge), Calibration("fixed", 0.5, 0.0, 0.5, 100, 1.0, 0.5, 0.9))
    found = align_regions(image, [BOX], prompts[:1], calibrated, captions=False)[0]
    assert found.words[0].probability == pytest.approx(1 / (1 + 0.25**0.5)) and judge.asked[-1][0].startswith(WITHIN)
    assert torch.equal(seen.pop()[0], with_box(image, BOX))
    assert align_regions(image, [], [], calibrated) == []


def test_a_chat_model_judges_and_captions_what_is_in_a_box():
    judge = leaning("qwen3", "Yes")
    judge.regions = "box"
    found = align_regions(noise(1)[0], [BOX], [phrases_of("a star")], judge)[0]
    star = next(w for w in found.words if w.word.text == "star")
    assert star.probability > 0.95 and star.how.endswith("within a box drawn in the picture")
    assert found.caption.startswith("Yes")


def test_boxes_are_refused_where_nobody_can_be_told_of_them():
    with pytest.raises(InputError, match="judge 'of the lab' answers no questions, so it cannot be told to look into"):
        accord.load_judge(regions="box")
    with pytest.raises(InputError, match="the view of regions 'eyes' is unknown; use crop or box"):
        accord.load_judge(regions="eyes")


def test_repair_takes_a_judge_that_answers(tmp_path):
    from conftest import tiny_pipeline

    judge = Fixed(0.4)
    config = accord.RealignConfig(rounds=1)
    found = accord.realign(
        tiny_pipeline(), "a red star", captioner=judge, config=config, num_inference_steps=2, captions=False
    )[0]
    assert found.alignment_before.overall == pytest.approx(0.4) and found.rounds == 1
    assert found.alignment_before.judge == "fixed"


# loading ------------------------------------------------------------------------------------------------------------
def saved(judge, folder):
    judge.model.save_pretrained(folder)
    judge.processor.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", ["qwen25", "idefics3", "internvl"])
def test_a_saved_chat_model_is_loaded_and_answers_the_same(name, tmp_path):
    judge = shared(name)
    loaded = accord.load_judge(saved(judge, tmp_path / "model"))
    assert isinstance(loaded, ChatJudge) and loaded.name == str(tmp_path / "model")
    images = noise()
    assert np.allclose(
        probabilities(loaded.answer(images, QUESTIONS, [0, 0, 1])),
        probabilities(judge.answer(images, QUESTIONS, [0, 0, 1])),
        rtol=1e-4,
    )


def test_the_lab_and_its_clip_are_judges():
    assert accord.load_judge().name == accord.load_judge("lab").name == "of the lab"
    judge = accord.load_judge(str(MODELS / "clip"))
    assert isinstance(judge, ClipJudge)
    found = accord.score([picture(STAR)] * 2, ["a red star", "a blue star"], judge)
    right, wrong = (next(w for w in f.alignment.words if w.word.kind == "color") for f in found)
    assert right.probability > 0.5 > wrong.probability and wrong.reads_as == "red"
    assert found[0].alignment.judged(right).startswith(f"logits against those of {right.against} other words")


def test_what_is_no_judge_is_refused_in_one_sentence(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(
        InputError, match="is a bert model; use a BLIP, BLIP-2 or Florence-2, a CLIP or SigLIP, or a chat model"
    ):
        accord.load_judge(str(tmp_path))
    judge = fresh("llava")
    processor = T.LlavaProcessor(judge.processor.image_processor, judge.tokenizer, patch_size=8)
    with pytest.raises(InputError, match="has no chat template"):
        ChatJudge(judge.model, processor, "x")


def test_siglip_ranks_texts_by_its_own_logits(tmp_path):
    torch.manual_seed(0)
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = tiny_judges.sentencepiece(T.GemmaTokenizer, "<pad> <eos> <bos> <unk> <mask>")
    model = T.SiglipModel(
        T.SiglipConfig(
            text_config=size | {"vocab_size": len(tokenizer), "max_position_embeddings": 64},
            vision_config=size | {"image_size": 32, "patch_size": 8},
        )
    ).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    T.models.siglip.image_processing_pil_siglip.SiglipImageProcessorPil(
        size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path)
    judge, images, texts = accord.load_judge(str(tmp_path)), noise(1, 32, 32), ["a red star", "a blue key", "two"]
    with torch.no_grad():
        found = judge.log_likelihood(judge.encode(images), texts, [0, 0, 0])
        ids = tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt").input_ids
        by_model = model(input_ids=ids, pixel_values=(images - 0.5) / 0.5).logits_per_image[0]
        own = judge.scorer.model
        with only_held(own.text_model, own), only_held(own.vision_model, own):
            judge.log_likelihood(judge.encode(images), texts, [0, 0, 0])
    assert torch.allclose(found.softmax(0), by_model.softmax(0), atol=1e-5)  # its bias is one for all texts


def test_rewards_refuse_a_judge_without_gradients_or_captions():
    with pytest.raises(InputError, match="gives no gradients of likelihoods"):
        accord.make_rewards({"contrast": 1.0}, shared("internvl"))
    with pytest.raises(InputError, match="writes no captions"):
        accord.make_rewards({"caption-clip": 1.0}, accord.load_judge(str(MODELS / "clip")))
    reward = accord.make_rewards({"caption-clip": 1.0}, shared("qwen3"))
    assert reward(noise(1), ["a red star"]).shape == (1,)


def test_a_processor_without_videos_is_left_as_it_is():
    assert of_pictures(T.LlavaProcessor) is T.LlavaProcessor


# VQAScore and Soft-TIFA ---------------------------------------------------------------------------------------------
def test_vqascore_is_the_probability_of_yes():
    images = noise(2)
    judge = shared("qwen3")
    asked = Question('Does this figure show "a red star"? Please answer Yes or No.', (("Yes",),))
    assert vqa_score(judge, images[:1], ["a red star"])[0] == pytest.approx(judge.answer(images, [asked], [0])[0][0])
    assert vqa_score(leaning("qwen3", "Yes"), images, ["a red star", "two keys"]).min() > 0.9
    assert vqa_score(leaning("qwen3", "No"), images, ["a red star", "two keys"]).max() < 0.1


def test_soft_tifa_puts_the_expected_answers_together():
    class Odds(Fixed):
        def answer(self, images, questions, image_of):
            self.asked += [(q.text, i) for q, i in zip(questions, image_of, strict=True)]
            return [np.array([0.9 if "star" in q.text else 0.4]) for q in questions]

    judge = Odds(0.5)
    found = soft_tifa(judge, noise(2), [[("Is it a star?", "yes"), ("How many?", "2")], [("How many?", "two")]])
    assert found.am == pytest.approx(100 * (0.65 + 0.4) / 2) and found.gm == pytest.approx(100 * (0.6 + 0.4) / 2)
    assert judge.asked[0] == ("Is it a star? Answer in one word.", 0) and judge.asked[2][1] == 1
    assert set(spellings("2")) == set(spellings("two")) == {"2", "two", "Two"}
    assert spellings("Yes") == ("Yes", "yes")
    with pytest.raises(InputError, match="at least one question"):
        soft_tifa(judge, noise(1), [[]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert means(np.array([0.0, *[1.0] * 9])) == (0.9, 0.0)  # one that is surely wrong


def flan(folder):
    """A tiny CLIP-FlanT5 as its checkpoint is laid out, and the folder of its tower."""
    torch.manual_seed(0)
    tokenizer = t5_tokenizer()
    size = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 4, "decoder_start_token_id": 0}
    t5 = T.T5ForConditionalGeneration(T.T5Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **size)).eval()
    for weight in t5.parameters():
        weight.data.mul_(2)
    t5.lm_head.weight = nn.Parameter(torch.randn(t5.lm_head.weight.shape) / 4)  # FlanT5's is none of its embeddings
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2}
    tower = T.CLIPVisionModel(T.CLIPVisionConfig(**vision, image_size=32, patch_size=8)).eval()
    projector = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))
    tower.save_pretrained(folder / "tower")
    T.models.clip.image_processing_pil_clip.CLIPImageProcessorPil().save_pretrained(folder / "tower")
    model = folder / "model"
    tokenizer.save_pretrained(model)
    config = t5.config.to_dict() | {"model_type": "clip_t5", "mm_vision_tower": str(folder / "tower")}
    config["tie_word_embeddings"] = False
    (model / "config.json").write_text(json.dumps(config))
    weights = {k: v.clone() for k, v in t5.state_dict().items()}
    weights |= {f"mm_projector.{k}": v for k, v in projector.state_dict().items()}
    save_file(weights, model / "model.safetensors")
    return str(model), t5, tower, projector, tokenizer


def test_clip_flant5_is_computed_as_its_paper_does(tmp_path):
    """Brute force, from the words of its description."""
    folder, t5, tower, projector, tokenizer = flan(tmp_path)
    judge = ClipFlanT5.from_pretrained(folder)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    image = Image.fromarray((noise(1, 20, 32)[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8))
    square = Image.new("RGB", (32, 32), tuple(int(m * 255) for m in mean))
    square.paste(image, (0, 6))
    pixels = (to_tensor(square) - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    with torch.no_grad():
        states = tower(pixel_values=pixels, output_hidden_states=True).hidden_states
        assert len(states) == 4
        patches = projector(states[2][0, 1:])
        before, after = (tokenizer(t).input_ids for t in (ASKED_OF_T5[0], ASKED_OF_T5[1].format("a red star")))
        assert before[-1] == after[-1] == tokenizer.eos_token_id  # an end token stands before the picture
        embed = t5.shared
        inputs = torch.cat([embed(torch.tensor(before)), patches, embed(torch.tensor(after))])[None]
        yes = tokenizer("Yes").input_ids
        assert yes[-1] == tokenizer.eos_token_id
        logits = t5(inputs_embeds=inputs, decoder_input_ids=torch.tensor([[0, *yes[:-1]]])).logits[0].softmax(-1)
    odds = [float(logits[i, token]) for i, token in enumerate(yes)]
    found = judge.score(to_tensor(image), ["a red star"])[0]
    assert found == pytest.approx(float(np.prod(odds)) ** (1 / len(odds)), rel=1e-4)
    # padding of a shorter prompt, and the pictures beside, change nothing
    images = torch.cat([to_tensor(image), noise(1, 20, 32)])
    pairs = judge.pair_scores(images, ["a red star", "a red star and a blue key on the moon", "a red star"], [0, 0, 1])
    assert pairs[0] == pytest.approx(found, rel=1e-4)
    assert min(abs(pairs[1:] / found - 1)) > 1e-3


def test_a_clip_flant5_that_is_not_whole_is_refused(tmp_path):
    folder, *_ = flan(tmp_path)
    from safetensors.torch import load_file

    weights = load_file(f"{folder}/model.safetensors")
    save_file({k: v for k, v in weights.items() if "mm_projector.2" not in k}, f"{folder}/model.safetensors")
    with pytest.raises(InputError, match="no projector"):
        ClipFlanT5.from_pretrained(folder)
    save_file({k: v for k, v in weights.items() if "lm_head" not in k}, f"{folder}/model.safetensors")
    with pytest.raises(InputError, match="lacks weights"):
        ClipFlanT5.from_pretrained(folder)
    with pytest.raises(InputError, match="no folder with a config"):
        ClipFlanT5.from_pretrained("zhiqiulin/clip-flant5-xl")


# calibration --------------------------------------------------------------------------------------------------------
def test_calibration_finds_the_scale_and_bias_that_a_judge_is_off_by(tmp_path):
    rng = np.random.default_rng(0)
    true = rng.uniform(-4, 4, 4000)
    labels = (rng.uniform(size=4000) < 1 / (1 + np.exp(-true))).astype(int)
    sure = 1 / (1 + np.exp(-(3 * true + 1.5)))  # three times too sure, and biased to yes
    found = fit("fixed", sure.tolist(), labels.tolist())
    assert found.scale == pytest.approx(1 / 3, abs=0.03) and found.bias == pytest.approx(-0.5, abs=0.1)
    assert found.after < found.before and found.threshold == pytest.approx(0.5, abs=0.1)
    found.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json", "fixed") == found
    with pytest.raises(InputError, match="was fitted to 'fixed', not to 'other'"):
        Calibration.load(tmp_path / "c.json", "other")
    with pytest.raises(InputError, match="surer of the pictures that are labelled wrong"):
        fit("fixed", (1 - sure).tolist(), labels.tolist())
    with pytest.raises(InputError, match="at least 8"):
        fit("fixed", [0.5] * 4, [1, 0, 1, 0])


def test_a_calibrated_judge_gives_calibrated_probabilities(tmp_path):
    calibration = Calibration("fixed", 0.5, 0.0, 0.5, 100, 1.0, 0.5, 0.9)
    plain, found = (
        align(noise(1), ["a red star"], j, captions=False)[0]
        for j in (Fixed(0.8), Calibrated(as_judge(Fixed(0.8)), calibration))
    )
    assert found.words[0].probability == pytest.approx(1 / (1 + 0.25**0.5))
    assert plain.words[0].probability == pytest.approx(0.8)
    assert found.judged(found.words[0]).endswith(", calibrated, by fixed")


def test_calibrate_asks_the_judge_about_labelled_pictures(tmp_path):
    rows = []
    for k in range(8):
        picture(STAR).save(tmp_path / f"{k}.png")
        rows.append({"image": str(tmp_path / f"{k}.png"), "question": "Is it a star?", "label": k % 2})

    class Knows(Fixed):
        def answer(self, images, questions, image_of):
            super().answer(images, questions, image_of)
            odds = 0.9 if len(self.asked) % 2 == 0 else 0.3
            return [np.array([odds / 2, (1 - odds) / 2])]

    found = calibrate(Knows(0.5), rows, tmp_path / "c.json")
    assert found.accuracy == 1 and found.pictures == 8 and 0.3 < found.threshold < 0.9 and found.scale > 0
    assert json.loads((tmp_path / "c.json").read_text())["judge"] == "fixed"
    lines = "".join(f"{k}.png,Is it a star?,{k % 2}\n" for k in range(8))
    (tmp_path / "labels.csv").write_text("image,question,label\n" + lines)
    assert calibrate(Knows(0.5), tmp_path / "labels.csv") == found
    (tmp_path / "labels.csv").write_text("image,question\n1.png,Is it?\n")
    with pytest.raises(InputError, match="has no columns image and label"):
        calibrate(Knows(0.5), tmp_path / "labels.csv")
    with pytest.raises(InputError, match="row 1 of the labelled pictures needs"):
        calibrate(Knows(0.5), [{"image": "x", "label": 2, "prompt": "a"}])


def test_calibrate_leaves_out_what_the_judge_says_nothing_of(tmp_path):
    picture(STAR).save(tmp_path / "a.png")
    rows = [{"image": str(tmp_path / "a.png"), "question": "Is it?", "label": k % 2} for k in range(10)]

    class Silent(Fixed):
        """Says nothing of the first two, and to the others yes as often as they are labelled 1; at last nothing."""

        def answer(self, images, questions, image_of):
            super().answer(images, questions, image_of)
            k = len(self.asked) - 1
            return [np.array([[math.nan] * 2, [0.0, 0.0], [0.7, 0.3], [0.2, 0.6]][min(k, 2 + k % 2)])]

    judge = Silent(0.5)
    with pytest.warns(Notice, match="2 of 10 labelled pictures are left out: judge 'fixed' says nothing"):
        found = calibrate(judge, [{**row, "label": 1 - row["label"]} for row in rows])
    assert found.pictures == 8 and found.accuracy == 1 and judge.asked[0][0] == "Is it? Answer yes or no."
    with pytest.raises(InputError, match="got 8 and 0"), pytest.warns(Notice):
        calibrate(Silent(0.5), [{**row, "label": 1} for row in rows])
    with pytest.raises(InputError, match="got 0 and 0"), pytest.warns(Notice):
        calibrate(Silent(0.5), rows[:2])
    with pytest.raises(InputError, match=r"row 1 .* is a question, and judge '.*' answers none"):
        calibrate(tiny_blip(), rows)
    with pytest.raises(InputError, match="are not finite"):
        fit("fixed", [math.nan] * 8, [0, 1] * 4)


# commands -----------------------------------------------------------------------------------------------------------
def test_score_and_realign_by_a_chat_model(accord_cli, tmp_path):
    judge, text = saved(shared("qwen3"), tmp_path / "judge"), "a pink star, no fish"
    picture(STAR).save(tmp_path / "star.png")
    Calibration(judge, 0.5, 0.0, 0.5, 100, 1.0, 0.5, 0.9).save(tmp_path / "c.json")
    by_python = accord.score(picture(STAR), text, shared("qwen3"))[0].alignment.words
    assert {w.word.text for w in by_python} == {"a", "star", "fish"}
    code, out, error = accord_cli("score", tmp_path / "star.png", text, "--judge", judge, "--json")
    assert code == 0 and error == "" and json.loads(out)["unjudged"] == ["pink"]
    words = json.loads(out)["words"]
    assert [w["probability"] for w in words] == pytest.approx([w.probability for w in by_python], rel=1e-4)
    assert words[1]["judged"] == f"answer to 'Is there a star in the picture? Answer yes or no.', by {judge}"
    options = ("--captioner", judge, "--calibration", tmp_path / "c.json", "--json")  # its old name
    code, out, _ = accord_cli("score", tmp_path / "star.png", text, *options)
    tempered = [1 / (1 + (1 / w.probability - 1) ** 0.5) for w in by_python]
    assert code == 0 and [w["probability"] for w in json.loads(out)["words"]] == pytest.approx(tempered, rel=1e-3)
    options = ("--judge", judge, "--steps", 2, "--rounds", 1, "--out", tmp_path / "out", "--json")
    code, out, error = accord_cli("realign", "a star", *options, "--judge-regions", "box")
    assert code == 0 and json.loads(out)["results"][0]["before"]["words"][1]["judged"].startswith("answer to")
    for view, why in (("box", "answers no questions"), ("eyes", "--judge-regions 'eyes' is unknown")):
        code, _, error = accord_cli("realign", "a star", "--judge-regions", view, "--out", tmp_path / "none")
        assert code == 2 and why in error and "Traceback" not in error
    code, _, error = accord_cli("score", tmp_path / "star.png", "a star", "--calibration", tmp_path / "c.json")
    assert code == 2 and "was fitted to" in error and "Traceback" not in error
