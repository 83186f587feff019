"""`score`: how well a picture says a prompt, by phrase and by word.

A word's probability is the captioner's likelihood of the prompt against the same prompt with that word exchanged:
P(word | x) = P(p | x) / (P(p | x) + sum over swaps p' of P(p' | x)). That something is not there ("no fish") is asked
by itself: P(none | x) is the product, over three captions with a place for a noun y ("a y", "... and a y",
"a y and ..."), of 1 - P(with the fish | x) / sum over y of P(with y | x), without the nouns of the prompt's things.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from accord.data.images import fit, to_rgb, to_tensor
from accord.data.lexicon import Lexicon
from accord.judges.captioners import Captioner, load_captioner
from accord.judges.clip import ClipScorer, load_clip
from accord.prompts.phrases import phrases_of
from accord.prompts.swaps import peers, singular_of, spelled, swaps, with_article
from accord.prompts.wording import usual
from accord.reports.results import Scored
from accord.types import Alignment, InputError, Prompt, Word, WordScore


def counterfactuals(prompt: Prompt, lexicon: Lexicon) -> list[tuple[Word, list[tuple[str, str]]]]:
    """Each checkable word that has counterfactuals, with (replacement, whole prompt) pairs."""
    found = [(w, swaps(prompt, w, lexicon)) for w in prompt.words]
    return [(w, s) for w, s in found if s]


@dataclass(frozen=True)
class _Check:
    """What decides about a word, as rows of all texts.

    Attributes:
        names: of the texts against it.
        askings: (texts that bear it out, texts that do not); a word holds if it does in every asking.
    """

    word: Word
    names: list[str]
    askings: list[tuple[np.ndarray, np.ndarray]]

    def score(self, likelihoods: np.ndarray) -> WordScore:
        """From log-likelihoods [T]."""
        probability = 1.0
        for own, against in self.askings:
            rows = np.concatenate([own, against])
            shares = np.exp(likelihoods[rows] - likelihoods[rows].max())
            shares /= shares.sum()
            probability *= float(shares[: len(own)].sum())
        others = shares[len(own) :]
        best = int(others.argmax())
        absent = self.word.kind == "absence"
        reads_as = 1 - probability if absent else float(others[best])
        return WordScore(self.word, probability, self.names[best], reads_as, len(own) if absent else len(others))


def absence_texts(prompt: Prompt, absence: Word, lexicon: Lexicon) -> list[tuple[list[str], list[str]]]:
    """Captions that ask for what is not to be there, by itself, after what is there, and before it: each asking is
    (of other nouns, of the noun itself).

    The nouns of the prompt's own things are left out: they are there, and say nothing about this one.
    """
    own = singular_of(absence.text, lexicon)[0]
    said = {singular_of(p.head.text, lexicon)[0] for p in prompt.phrases}
    known = peers(own, lexicon)
    others = [n for n in known if not lexicon.alike(n, own) and not any(lexicon.alike(n, s) for s in said)]
    if not others:
        return []
    nouns, itself = [with_article(n) for n in others], with_article(own)
    rest = " and ".join(prompt.phrases[i].text for i in prompt.things)
    forms = ["{0}", "{1} and {0}", "{0} and {1}"] if rest else ["{0}"]
    return [([form.format(n, rest) for n in nouns], [form.format(itself, rest)]) for form in forms]


@torch.no_grad()
def align(
    images: torch.Tensor,
    prompts: Sequence[str | Prompt],
    captioner: Captioner,
    clip: ClipScorer | None = None,
    captions: bool = True,
    clip_images: torch.Tensor | None = None,
) -> list[Alignment]:
    """An Alignment per (picture, prompt).

    Args:
        images: [B,3,H,W] in 0..1.
        clip_images: the same pictures at another size, for CLIP.
        prompts: B prompts, raw or parsed.
        captioner: judges the words.
        clip: adds the CLIP similarity and the caption reward, if given.
        captions: whether to caption the pictures too (costs a generation each).

    Raises:
        InputError: for a prompt that is longer than the captioner reads.
    """
    parsed = [p if isinstance(p, Prompt) else phrases_of(p) for p in prompts]
    for text in dict.fromkeys(p.text for p in parsed):
        captioner.check_length(text)
    states = captioner.encode(images)
    texts: list[str] = []
    owner: list[int] = []
    plans = []
    for i, prompt in enumerate(parsed):
        plan: list[_Check] = []
        base = len(texts)
        asked, own = _as_asked(prompt, captioner.lexicon)
        texts.append(asked.text)
        for word, options in counterfactuals(asked, captioner.lexicon):
            rows = len(texts) + np.arange(len(options))
            plan.append(_Check(own[word], [name for name, _ in options], [(np.array([base]), rows)]))
            texts += [text for _, text in options]
        for word in prompt.absences:
            askings = []
            for others, itself in absence_texts(asked, word, captioner.lexicon):
                rows = len(texts) + np.arange(len(others) + 1)
                askings.append((rows[:-1], rows[-1:]))
                texts += [*others, *itself]
            if askings:
                plan.append(_Check(word, [word.text], askings))
        plans.append(sorted(plan, key=lambda check: check.word.start))
        owner += [i] * (len(texts) - len(owner))
    scores = captioner.log_likelihood(states, texts, owner).double().cpu().numpy()

    check_scores(scores, "captioner")
    said = captioner.caption(images) if captions else [""] * len(parsed)
    similarity, reward = _similarities(
        images if clip_images is None else clip_images, parsed, said if captions else None, clip
    )
    check_scores([s for s in (*similarity, *reward) if s is not None], "CLIP")
    out = []
    for i, (prompt, plan) in enumerate(zip(parsed, plans, strict=True)):
        words = tuple(check.score(scores) for check in plan)
        logs = [np.log(max(w.probability, 1e-12)) for w in words]
        overall = float(np.exp(np.mean(logs))) if logs else None
        reason = "" if logs else _why_unscored(prompt)
        out.append(Alignment(prompt, overall, words, said[i], reward[i], similarity[i], reason, captioner.name))
    return out


def _as_asked(prompt: Prompt, lexicon: Lexicon) -> tuple[Prompt, dict[Word, Word]]:
    """The prompt as the captioner is asked, and what each of its words stands for: in the usual wording of a captioner
    with few words; else as it is, digits in words as their counterfactuals are.
    """
    found = None if lexicon.by_class else usual(prompt, lexicon)
    if found is not None:
        return found
    spelt = spelled(prompt)
    same = len(spelt.words) == len(prompt.words)
    return spelt, dict(zip(spelt.words, prompt.words if same else spelt.words, strict=True))


def _why_unscored(prompt: Prompt) -> str:
    if prompt.language != "en":
        return f"the prompt is in another language ({prompt.language}), and only English is judged by word"
    if not prompt.words:
        return "the prompt names nothing that a picture could be checked for"
    return "the captioner knows nothing that the words of the prompt could be exchanged with"


def score(
    images: Image.Image | Sequence[Image.Image],
    prompts: str | Sequence[str],
    captioner: Captioner | None = None,
    clip: ClipScorer | None = None,
    batch_size: int = 16,
) -> list[Scored]:
    """How well each picture says its prompt, and which words it misses.

    Args:
        images: one PIL picture or several, of any size and mode.
        prompts: one prompt for all pictures, or one each.
        captioner, clip: the embedded ones if None.
        batch_size: pictures that are judged at once.

    Raises:
        InputError: if there are several prompts but not one for each picture, or a prompt is empty or too long.
    """
    pictures = [to_rgb(p) for p in ([images] if isinstance(images, Image.Image) else images)]
    texts = [prompts] * len(pictures) if isinstance(prompts, str) else list(prompts)
    if len(texts) != len(pictures):
        raise InputError(f"{len(pictures)} images were given with {len(texts)} prompts; give one prompt for each image")
    if not pictures:
        return []
    captioner = captioner or load_captioner()
    clip = clip or load_clip()
    out = []
    for start in range(0, len(pictures), batch_size):
        part = pictures[start : start + batch_size]
        seen = [torch.cat([fit(to_tensor(p), side) for p in part]) for side in (captioner.image_size, clip.image_size)]
        found = align(seen[0], texts[start : start + batch_size], captioner, clip, clip_images=seen[1])
        out += [Scored(p, a) for p, a in zip(part, found, strict=True)]
    return out


def check_scores(scores: Any, judge: str) -> None:
    """Refuse scores that are not finite: no order can be made of them, and no JSON.

    Raises:
        InputError: naming the judge.
    """
    if not np.isfinite(np.asarray(scores, dtype=np.float64)).all():
        raise InputError(
            f"the scores of the {judge} are not finite (NaN or infinity); it overflows in this precision: load it in "
            "float32, or use another"
        )


def _similarities(
    images: torch.Tensor, prompts: list[Prompt], said: list[str] | None, clip: ClipScorer | None
) -> tuple[list[float | None], list[float | None]]:
    nothing: list[float | None] = [None] * len(prompts)
    if clip is None:
        return nothing, nothing
    text = clip.text_features([p.text for p in prompts])
    similarity = (clip.image_features(images) * text).sum(-1).tolist()
    if said is None:
        return similarity, nothing
    return similarity, (clip.text_features([s or " " for s in said]) * text).sum(-1).tolist()
