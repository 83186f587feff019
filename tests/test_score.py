"""Scores on the lab's captioner and on tiny BLIP and BLIP-2 models of the real classes."""

import numpy as np
import pytest
import torch
from conftest import KEY, MODELS, STAR, picture, tiny_blip, tiny_blip2, tiny_blip2_t5, tiny_florence2
from PIL import Image
from transformers import Florence2Processor
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import accord
from accord.data.images import to_pil, to_tensor
from accord.data.lexicon import DEFAULT
from accord.judges.captioners import load_captioner
from accord.judges.clip import load_clip
from accord.judges.diagnosis import align, score
from accord.judges.florence import Florence2Captioner
from accord.judges.protocol import Answers
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import swaps
from accord.types import InputError
from accord_lab.scenes.scene import Thing


@pytest.mark.parametrize("make", [tiny_blip, tiny_blip2, tiny_blip2_t5, tiny_florence2])
def test_likelihood_is_a_probability_of_the_whole_text(make):
    """Brute force: the summed log-probabilities of the tokens, one forward pass a text, no padding."""
    captioner = make()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    texts = ["a red star", "two blue keys on a gray background"]
    with torch.no_grad():
        states = captioner.encode(images)
        together = captioner.log_likelihood(states, texts, [0, 1])
        alone = torch.cat([captioner.log_likelihood(states, [t], [i]) for i, t in enumerate(texts)])
    assert torch.allclose(together, alone, atol=1e-4)  # padding does not leak
    assert (together < 0).all()
    ids = captioner.tokenizer(texts[0], return_tensors="pt").input_ids
    with torch.no_grad():
        if captioner.kind == "blip":
            ids[:, 0] = captioner.tokenizer.bos_token_id
            logits = captioner.model.text_decoder(input_ids=ids, encoder_hidden_states=states[:1]).logits[0]
            by_hand = sum(logits[i].log_softmax(-1)[ids[0, i + 1]] for i in range(ids.shape[1] - 1))
        elif captioner.kind == "blip-2-t5":  # one token after the other, after the picture and a start token
            read = torch.tensor([[captioner.model.config.image_token_id] * 4 + [1]])
            assert ids[0, -1] == captioner.tokenizer.eos_token_id
            by_hand, said = 0.0, [0]
            for token in ids[0].tolist():
                out = captioner.model(
                    pixel_values=captioner.preprocess(images[:1]),
                    input_ids=read,
                    attention_mask=torch.ones_like(read),
                    decoder_input_ids=torch.tensor([said]),
                ).logits[0, -1]
                by_hand, said = by_hand + out.log_softmax(-1)[token], [*said, token]
        elif captioner.kind == "florence2":  # as its processor lays out picture and task, one token after the other
            read = processor_of(captioner)(text="<CAPTION>", images=to_pil(images)[:1], return_tensors="pt")
            read["pixel_values"] = captioner.preprocess(images[:1])
            start, end = captioner.tokenizer.bos_token_id, captioner.tokenizer.eos_token_id
            assert ids[0, 0] == start and ids[0, -1] == end
            by_hand, said = 0.0, [end, start]
            for token in ids[0, 1:].tolist():
                out = captioner.model(**read, decoder_input_ids=torch.tensor([said])).logits[0, -1]
                by_hand, said = by_hand + out.log_softmax(-1)[token], [*said, token]
        else:
            places = torch.full((1, 4), captioner.model.config.image_token_id)
            full = torch.cat([places, ids], 1)
            out = captioner.model(pixel_values=captioner.preprocess(images[:1]), input_ids=full).logits[0]
            end = captioner.tokenizer.eos_token_id
            assert ids[0, -1] == end
            by_hand = sum(out[3 + i].log_softmax(-1)[ids[0, i]] for i in range(1, ids.shape[1]))
    assert together[0].item() == pytest.approx(float(by_hand), abs=2e-3)


def processor_of(captioner):
    """A Florence-2's own processor, for pictures of 32 pixels."""
    pictures = CLIPImageProcessorPil(size={"height": 32, "width": 32}, do_center_crop=False)
    pictures.image_mean = pictures.image_std = [0.5] * 3
    pictures.image_seq_length = captioner.encode(torch.zeros(1, 3, 32, 32)).shape[1] - len(
        captioner.tokenizer(captioner.task).input_ids
    )
    return Florence2Processor(pictures, captioner.tokenizer)


def test_a_saved_florence_2_is_a_captioner_and_answers_no_questions(tmp_path):
    captioner = tiny_florence2()
    captioner.model.save_pretrained(tmp_path)
    processor_of(captioner).save_pretrained(tmp_path)
    loaded = accord.load_judge(str(tmp_path))
    assert isinstance(loaded, Florence2Captioner) and loaded.image_size == 32 and not isinstance(loaded, Answers)
    images, text = torch.rand(2, 3, 32, 32), "a red star on a gray key"
    with torch.no_grad():
        same = [j.log_likelihood(j.encode(images), [text, "two"], [1, 0]) for j in (captioner, loaded)]
    assert torch.allclose(*same, atol=1e-4)
    written = loaded.model.generate(
        **processor_of(loaded)(text=["<CAPTION>"] * 2, images=to_pil(images), return_tensors="pt"),
        max_new_tokens=3,
        do_sample=False,
    )
    assert loaded.caption(images, max_new_tokens=3) == [
        t.strip() for t in loaded.tokenizer.batch_decode(written, skip_special_tokens=True)
    ]
    loaded.lexicon = load_captioner().lexicon  # fewer words in the place of each
    seen = align(images[:1], ["a red star, and the text 'OPEN'"], loaded, captions=False)[0]
    assert "OPEN" in seen.unjudged and 0 < seen.overall < 1
    with pytest.raises(InputError, match="longer than the 128 tokens"):
        loaded.check_length("red " * 200)


@pytest.mark.parametrize("make", [tiny_blip, tiny_blip2, tiny_blip2_t5, tiny_florence2])
def test_captions_scores_and_gradient_on_tiny_models(make):
    captioner = make()
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert len(captioner.caption(images, max_new_tokens=3)) == 2
    found = align(images, ["a red dog and a blue cat", "two cats"], captioner, captions=False)
    for alignment in found:
        assert alignment.words
        assert all(0 < w.probability < 1 for w in alignment.words)
    images.requires_grad_(True)
    captioner.log_likelihood(captioner.encode(images), ["a red dog", "a cat"], [0, 1]).sum().backward()
    assert images.grad.abs().sum(dim=(1, 2, 3)).min() > 0


def test_word_probability_is_the_share_among_its_swaps():
    captioner = load_captioner()
    image = to_tensor(picture(STAR))
    prompt = phrases_of("a red star")
    alignment = align(image, [prompt], captioner, captions=False)[0]
    states = captioner.encode(image)
    for score_ in alignment.words:
        options = swaps(prompt, score_.word, captioner.lexicon)
        texts = [prompt.text, *(t for _, t in options)]
        with torch.no_grad():
            logs = captioner.log_likelihood(states, texts, [0] * len(texts)).double()
        shares = logs.softmax(0)
        assert score_.probability == pytest.approx(float(shares[0]), abs=1e-5)
        assert score_.reads_as == options[int(shares[1:].argmax())][0]
    logs = np.log([w.probability for w in alignment.words])
    assert alignment.overall == pytest.approx(float(np.exp(logs.mean())), rel=1e-6)


def test_lab_captioner_sees_right_and_wrong_words():
    image = picture(STAR, KEY)
    right, color, side = score(
        [image, picture(STAR), image],
        ["a red star to the left of a blue key", "a blue star", "a red star to the right of a blue key"],
    )
    assert right.alignment.overall > 0.8
    assert all(w.probability > 0.5 for w in right.alignment.words)
    low = {(w.word.text, w.reads_as) for w in color.alignment.words if w.probability < 0.5}
    assert low == {("blue", "red")}
    low = {(w.word.text, w.reads_as) for w in side.alignment.words if w.probability < 0.5}
    assert low == {("to the right of", "left")}
    assert "star" in right.alignment.caption and "key" in right.alignment.caption


def test_digits_count_as_words_do():
    two = [Thing("star", "red", "big", (3, 20, 31, 47)), Thing("star", "red", "big", (34, 18, 62, 45))]
    digits, words = score([picture(*two)] * 2, ["2 red stars", "two red stars"])
    assert (
        digits.alignment.overall == pytest.approx(words.alignment.overall, abs=1e-5) and words.alignment.overall > 0.8
    )
    assert digits.alignment.words[0].word.text == "2"


def test_pictures_of_every_mode_are_scored_as_they_look():
    image = picture(STAR, KEY)
    clear = image.convert("RGBA")
    clear.putdata(
        [(0, 0, 0, 0) if p == image.getpixel((0, 0)) else (*p, 255) for p in image.getdata()]
    )  # black underneath
    grounded = Image.new("RGB", image.size, "white")
    grounded.paste(clear, mask=clear)
    text = "a red star to the left of a blue key"
    a, b = score([clear, grounded], text)
    assert a.alignment.overall == pytest.approx(b.alignment.overall, abs=1e-5)
    assert a.alignment.clip == pytest.approx(b.alignment.clip, abs=1e-5)


def test_scores_do_not_depend_on_the_batch_and_long_prompts_are_named():
    pictures, texts = (
        [picture(STAR), picture(KEY), picture(STAR, KEY)],
        ["a red star", "a blue star", "a red star and a blue key"],
    )
    whole, single = score(pictures, texts), score(pictures, texts, batch_size=1)
    assert [s.alignment.overall for s in whole] == pytest.approx([s.alignment.overall for s in single], abs=1e-5)
    with pytest.raises(
        InputError, match="longer than the 32 tokens that the captioner reads, these words would fall off: 'blue key'"
    ):
        score(pictures[0], "a star " * 14 + "and a blue key")


def test_clip_and_caption_reward_are_cosines():
    found = score(picture(STAR), "a red star")[0].alignment
    assert -1 <= found.clip <= 1 and -1 <= found.caption_reward <= 1
    clip = load_clip()
    text = clip.text_features(["a red star", found.caption])
    assert found.caption_reward == pytest.approx(float(text[0] @ text[1]), abs=1e-4)
    assert torch.allclose(text.norm(dim=-1), torch.ones(2), atol=1e-4)


def test_numbers_of_pictures_and_prompts_must_agree():
    with pytest.raises(InputError, match="one prompt for each image"):
        score([picture(STAR)], ["a", "b"])


def test_nothing_to_score_is_no_scores():
    assert score([], []) == []


def test_unknown_captioner_is_named():
    with pytest.raises(InputError, match=r"captioner "):
        load_captioner("./no-such-folder")
    with pytest.raises(InputError, match="BLIP"):
        load_captioner(str(MODELS / "clip"))


def test_a_hub_captioner_has_the_general_lexicon():
    assert tiny_blip().lexicon is DEFAULT
    assert "key" in load_captioner().lexicon.nouns
