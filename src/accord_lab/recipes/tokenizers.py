"""The lab's tokenizers: each word of the grammar is one token, anything else falls apart into characters."""

from __future__ import annotations

import json

import numpy as np
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import BertTokenizer, CLIPTokenizer

from accord_lab.scenes.grammar import caption
from accord_lab.scenes.scene import sample_scene

MAX_TOKENS = 32


def corpus(size: int = 20_000, seed: int = 1) -> list[str]:
    rng = np.random.default_rng(seed)
    return [caption(sample_scene(rng), rng) for _ in range(size)]


def words(texts: list[str]) -> list[str]:
    """All words of the texts, sorted."""
    return sorted({w for t in texts for w in t.replace(",", " ").split()})


def clip_tokenizer() -> CLIPTokenizer:
    """A CLIP byte-pair tokenizer whose merges join each word of the grammar into one token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<|endoftext|>", end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    texts = corpus()
    # named beforehand: by itself the trainer numbers these in the order of a table that is another in each process, and
    # breaks ties by the numbers
    last = sorted({f"{word[-1]}</w>" for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)})
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        show_progress=False,
        special_tokens=last,
        end_of_word_suffix="</w>",
    )
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in model["merges"]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = dict.fromkeys([*alphabet, *(c + "</w>" for c in alphabet), *("".join(m) for m in merges)])
    vocab = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=MAX_TOKENS)


def bert_tokenizer() -> BertTokenizer:
    """A WordPiece tokenizer over the words of the grammar and all ASCII characters, with BLIP's [DEC] start token."""
    chars = [chr(i) for i in range(33, 127) if not chr(i).isupper()]
    vocab = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *words(corpus()), *chars])
    vocab |= dict.fromkeys("##" + c for c in chars)
    return BertTokenizer(
        vocab={w: i for i, w in enumerate(vocab)}, bos_token="[DEC]", model_max_length=MAX_TOKENS, do_lower_case=True
    )
