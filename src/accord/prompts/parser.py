"""`parse`: a prompt taken apart, one stage after the other."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from accord.data.prompts import check_says_something
from accord.prompts import lexicon, model
from accord.prompts.clauses import Clauses
from accord.prompts.counts import all_of_them, resolve_ones, set_count, share_out
from accord.prompts.language import language_of
from accord.prompts.negation import find_absences
from accord.prompts.parse import (
    Absence,
    Action,
    Ground,
    Parse,
    Place,
    Quoted,
    Relation,
    Span,
    Stripped,
    Style,
    Thing,
)
from accord.prompts.places import find_places
from accord.prompts.programs import Draft, normalise
from accord.prompts.relations import find_actions, find_predicates, find_relations
from accord.prompts.style import take_styles
from accord.prompts.things import Mention, attributes_of, compound_start, drop_frames, find_mentions, span_of
from accord.prompts.tokens import MODIFIER, NOUN, VERB, Tokens, split, tag
from accord.types import InputError

_BATCH = 64  # prompts that spaCy reads at once


def parse(prompt: str, spacy_model: str | None = None) -> Parse:
    """Take a prompt apart.

    Args:
        prompt: what somebody typed, the syntax of prompt programs included.
        spacy_model: name or folder of an installed spaCy pipeline; the small English one if None.

    Raises:
        InputError: for what is no text, a prompt without a letter or digit, one that is no UTF-8 or too long, or a
            pipeline that cannot be loaded.
    """
    return next(parse_all([prompt], spacy_model))


def parse_all(prompts: Iterable[str], spacy_model: str | None = None) -> Iterator[Parse]:
    """Take prompts apart, many at once, in their order; see `parse`."""
    batch: list[tuple[str, str, Draft, list[Style], Tokens]] = []
    for prompt in prompts:
        batch.append(_prepared(prompt, spacy_model))
        if len(batch) == _BATCH:
            yield from _read(batch, spacy_model)
            batch = []
    yield from _read(batch, spacy_model)


def plain_text(prompt: str) -> tuple[str, tuple[Stripped, ...]]:
    """A prompt without the syntax of prompt programs, and what was set aside; needs no spaCy."""
    draft = normalise(prompt)
    return (_plain(draft) if draft.stripped else prompt), tuple(draft.stripped)


def negative_text(prompt: str) -> str:
    """The negative prompt that is written in a prompt ("a star. Negative prompt: fish", `--no fish`), plain too; "" if
    there is none. Several are joined by commas.
    """
    said = (plain_text(text)[0] for text in normalise(prompt).ruled_out)
    tidy = (" ".join(text.split()).replace(" ,", ",").strip(" ,\"'") for text in said)
    return ", ".join(text for text in tidy if text)


def check_prompt(prompt: object) -> None:
    """Refuse what is no prompt.

    Raises:
        InputError: saying what is wrong with it.
    """
    if not isinstance(prompt, str):
        raise InputError(f"the prompt is a {type(prompt).__name__}; give one string, or call it once for each")
    check_says_something(prompt)


def _prepared(prompt: str, spacy_model: str | None) -> tuple[str, str, Draft, list[Style], Tokens]:
    """What can be done before spaCy reads: (prompt, language, draft, styles, words)."""
    check_prompt(prompt)
    draft = normalise(prompt)
    language = language_of(draft.text, lambda word: model.classes(spacy_model).knows(word))
    if language != "en":
        return prompt, language, draft, [], Tokens(prompt)
    styles = take_styles(draft, lambda word: model.classes(spacy_model).knows(word))
    return prompt, language, draft, styles, split(prompt, draft.text)


def _read(batch: Sequence[tuple[str, str, Draft, list[Style], Tokens]], spacy_model: str | None) -> Iterator[Parse]:
    if not batch:
        return
    if not any(len(tokens) for *_, tokens in batch):
        for prompt, language, draft, styles, _ in batch:
            yield _unread(prompt, language, draft, styles)
        return
    from spacy.tokens import Doc

    nlp = model.load(spacy_model)
    docs = nlp.pipe(
        [
            Doc(nlp.vocab, words=[t.text if t.capital and not t.mask else t.word for t in one[4]] or ["-"])
            for one in batch
        ]
    )
    for (prompt, language, draft, styles, tokens), doc in zip(batch, docs, strict=True):
        if len(tokens):
            tag(tokens, doc, model.classes(spacy_model))
            yield _assembled(draft, styles, tokens)
        else:
            yield _unread(prompt, language, draft, styles)


def _unread(prompt: str, language: str, draft: Draft, styles: list[Style]) -> Parse:
    """The parse of a prompt in another language, or with nothing but style."""
    plain = _plain(draft)
    words = [Span(m[0], *m.span()) for m in re.finditer(r"\S+(?: \S+)*", prompt)] if language != "en" else []
    return Parse(
        prompt,
        plain,
        language,
        quoted=tuple(draft.quoted),
        styles=tuple(styles),
        stripped=tuple(draft.stripped),
        absences=tuple(_ruled_out(draft)),
        unjudged=tuple(words),
    )


def _assembled(draft: Draft, styles: list[Style], tokens: Tokens) -> Parse:
    mentions = find_mentions(tokens)
    media = drop_frames(tokens, mentions)
    clauses = Clauses(tokens, mentions)
    resolve_ones(tokens, mentions)
    find_absences(tokens, mentions)
    _same_again(tokens, mentions)
    for mention in mentions:
        set_count(tokens, mention)
    used = share_out(tokens, mentions)
    find_predicates(tokens, mentions, clauses, used)
    all_of_them(tokens, mentions)
    if not any(not m.dropped for m in mentions) and media:  # a picture of nothing is a thing itself
        framed = next((m for m in mentions if tokens.word(m.head) in lexicon.MEDIA), None)
        if framed is not None:
            framed.dropped, media = False, []
    return _Assembly(draft, styles, tokens, mentions, clauses, media).parse()


def _same_again(tokens: Tokens, mentions: Sequence[Mention]) -> None:
    """ "the bench" after "a bench" is that bench."""
    for k, mention in enumerate(mentions):
        if mention.dropped or mention.absent:
            continue
        words = {tokens.word(i) for i in mention.modifiers}
        if not words & {"the", "this", "that", "these", "those"} or any(
            tokens.kind(i) == "number" for i in mention.modifiers
        ):
            continue
        same = [
            m
            for m in mentions[:k]
            if not m.dropped and not m.absent and m.head != mention.head and _names_again(tokens, m, mention)
        ]
        if len(same) == 1:
            mention.drop(same[0])


def _names_again(tokens: Tokens, first: Mention, again: Mention) -> bool:
    if tokens.word(first.head) != tokens.word(again.head):
        return False
    known = {tokens.word(i) for i in (*first.attributes, *first.modifiers)}
    return {tokens.word(i) for i in again.modifiers if tokens.kind(i) == MODIFIER} <= known


class _Assembly:
    """Puts what the stages found into the types of a parse."""

    def __init__(
        self,
        draft: Draft,
        styles: list[Style],
        tokens: Tokens,
        mentions: Sequence[Mention],
        clauses: Clauses,
        media: Sequence[Span],
    ) -> None:
        self.draft, self.tokens, self.mentions, self.clauses = draft, tokens, mentions, clauses
        self.styles = [*styles, *(Style(m.text, m.start, m.end, "medium") for m in media), *self._style_modifiers()]
        self.index: dict[int, list[int]] = {}  # id of a mention -> its things

    def parse(self) -> Parse:
        draft = self.draft
        things = self._things()
        relations = [
            Relation(i, name, j, self._span(at, at))
            for subject, name, object_, at in find_relations(self.tokens, self.mentions, self.clauses)
            for i in self.index.get(id(subject), [])
            for j in self.index.get(id(object_), [])
            if i != j
        ]
        actions = [
            Action(i, self._span(at, at), j)
            for subject, at, object_ in find_actions(self.tokens, self.clauses)
            for i in self.index.get(id(subject), [])
            for j in self._indices(object_) or [None]
        ]
        found = Parse(
            draft.prompt,
            _plain(draft),
            "en",
            tuple(things),
            tuple(actions),
            tuple(dict.fromkeys(relations)),
            places=tuple(self._places()),
            grounds=tuple(self._grounds()),
            absences=(*self._absences(), *_ruled_out(draft)),
            quoted=tuple(self._quoted()),
            styles=tuple(sorted(self.styles, key=lambda s: s.start)),
            stripped=tuple(sorted(draft.stripped, key=lambda s: s.start)),
        )
        return _with_unjudged(found, self.tokens)

    def _indices(self, mention: Mention | None) -> Sequence[int | None]:
        """The things of a mention; None where there is no mention."""
        return [None] if mention is None else [*self.index.get(id(mention), [])]

    def _places(self) -> list[Place]:
        out = []
        for mention, name, setting, first, last in find_places(self.tokens, self.mentions, self.clauses):
            for i in self._indices(mention):
                for j in self._indices(setting):
                    if i is None or i != j:
                        out.append(Place(i, name, j, self._span(first, last)))
        return out

    def _span(self, first: int, last: int) -> Span:
        return span_of(self.tokens, first, last)

    def _things(self) -> list[Thing]:
        things: list[Thing] = []
        for mention in self.mentions:
            if mention.dropped or mention.absent:
                continue
            source = mention.source or mention
            head, compound = self._names(source)
            first, last = min([mention.start, *mention.modifiers]), mention.head
            if (
                mention.modifiers
                and mention.head - max(mention.modifiers) > 1
                and any(m is not mention and m.head == mention.head and m.start > mention.start for m in self.mentions)
            ):
                last = max(mention.modifiers)  # the noun is left out here
            span = self._span(first, last)
            for count, attributes in mention.shares or [(mention.count, mention.attributes)]:
                self.index.setdefault(id(mention), []).append(len(things))
                things.append(Thing(*_fields(span), head, compound, count, attributes_of(self.tokens, attributes)))
        return things

    def _names(self, mention: Mention) -> tuple[Span, Span]:
        if mention.title is not None:
            return self._span(mention.title[1], mention.title[1]), self._span(*mention.title)
        return self._span(mention.head, mention.head), self._span(compound_start(self.tokens, mention), mention.head)

    def _absences(self) -> list[Absence]:
        out = []
        for mention in self.mentions:
            if mention.absent and not mention.dropped:
                head, compound = self._names(mention)
                span = self._span(mention.start, mention.head)
                out.append(Absence(*_fields(span), head, compound, attributes_of(self.tokens, mention.attributes)))
        return out

    def _grounds(self) -> list[Ground]:
        out = []
        for mention in self.mentions:
            if mention.ground:
                lone = mention.start == mention.head
                colors = [
                    a
                    for a in attributes_of(self.tokens, [*mention.attributes, *([mention.head] if lone else [])])
                    if a.kind == "color"
                ]
                span = self._span(mention.start, mention.head)
                out.append(Ground(*_fields(span), self._span(mention.head, mention.head), tuple(colors)))
        return out

    def _quoted(self) -> list[Quoted]:
        """The quoted texts, with what each is written on: the last thing before it."""
        out = []
        for quoted in self.draft.quoted:
            before = [m for m in self.mentions if id(m) in self.index and self.tokens[m.head].end <= quoted.start]
            thing = self.index[id(before[-1])][0] if before else None
            out.append(Quoted(*_fields(quoted), thing))
        return out

    def _is_style(self, i: int) -> bool:
        word = self.tokens.word(i)
        plain = word in ("low", "flat", "wide", "oil", "ink", "film", "chalk", "pencil", "stock", "studio")
        return word in lexicon.MEDIA_STYLES and (not plain or self.tokens.word(i + 1) == "poly")

    def _style_modifiers(self) -> list[Style]:
        """Words of style inside a noun phrase: "low poly mountain", "cyberpunk alley"."""
        out = []
        for mention in self.mentions:
            words = [i for i in mention.modifiers if self._is_style(i)]
            if words and not mention.dropped and self.tokens.kind(words[0]) in (MODIFIER, NOUN):
                span = self._span(words[0], words[-1])
                if not any(a in span.text.lower() for a in lexicon.COLORS):
                    out.append(Style(*_fields(span), "style"))
        return out


def _fields(span: Span) -> tuple[str, int, int]:
    return span.text, span.start, span.end


def _plain(draft: Draft) -> str:
    """The prompt without what was set aside."""
    text = list(draft.prompt)
    kept = _kept_characters(draft)
    return re.sub(r"\s+", " ", "".join(c if keep else " " for c, keep in zip(text, kept, strict=True))).strip(" ,")


def _kept_characters(draft: Draft) -> list[bool]:
    """Which characters of the prompt are left: those of the draft, of the styles and of quoted texts."""
    gone = [False] * len(draft.prompt)
    for part in draft.stripped:
        for i in range(part.start, part.end):
            gone[i] = draft.text[i] in " ," or (not draft.prompt[i].isalnum() and draft.text[i] == " ")
    return [not g for g in gone]


def _ruled_out(draft: Draft) -> list[Absence]:
    """The items of negative prompts as absences."""
    out = []
    for item in draft.negatives:
        head = item.text.rsplit(" ", 1)[-1]
        at = item.end - len(head)
        out.append(Absence(*_fields(item), Span(head, at, item.end), item))
    return out


def _with_unjudged(found: Parse, tokens: Tokens) -> Parse:
    """The parse with the words that no part of it holds."""
    from dataclasses import replace

    held: list[Any] = [*found.things, *found.grounds, *found.absences, *found.quoted, *found.styles, *found.stripped]
    held += [p.said for p in found.places] + [r.said for r in found.relations] + [a.verb for a in found.actions]
    held += [a for t in found.things for a in t.attributes]
    held += [Span("", max(0, g.start - 9), g.start) for g in found.grounds]  # "on", "against" before it
    held += [t.count.said for t in found.things if t.count.said]
    spans = [(p.start, p.end) for p in held]
    out: list[Span] = []
    for token in tokens:
        says = token.kind in (NOUN, MODIFIER, VERB, "adverb", "number", "other", "negation") and re.search(
            r"\w", token.text
        )
        if (
            token.quoted
            or token.mask in ("not", "made")
            or not (says or token.mask)
            or any(a <= token.start < b for a, b in spans)
        ):
            continue
        last = out[-1] if out else None
        if last is not None and not found.prompt[last.end : token.start].strip():
            out[-1] = Span(found.prompt[last.start : token.end], last.start, token.end)
        else:
            out.append(Span(token.text, token.start, token.end))
    return replace(found, unjudged=tuple(out))
