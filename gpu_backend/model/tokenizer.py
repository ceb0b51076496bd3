"""Text to token ids and back, by a folder's `tokenizer.json` and nothing else of it.

Owns the reading and its complaints. Refuses chat templates and special handling: a prompt is the text given.
"""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer

from sim.errors import ConfigError, Problem

TOKENIZER_FILE = "tokenizer.json"


def load_tokenizer(folder: Path, vocab_size: int) -> Tokenizer:
    """The tokenizer of a model folder.

    Args:
        folder: Of the Hugging Face layout.
        vocab_size: Of the model; ids at or above it would have no embedding.

    Raises:
        ConfigError: If the file is missing, is not a tokenizer, or has ids that the model lacks.
    """
    path = folder / TOKENIZER_FILE
    try:
        content = path.read_text(encoding="utf-8")
        tokenizer = Tokenizer.from_str(content)
    except OSError as error:
        raise ConfigError([Problem(str(path), "", f"cannot be read: {error.strerror}")]) from None
    except Exception as error:  # the library raises bare Exception for a file it cannot parse
        raise ConfigError([Problem(str(path), "", f"is not a tokenizer: {error}")]) from None
    largest_id = max(tokenizer.get_vocab().values(), default=-1)
    if largest_id >= vocab_size:
        message = f"has token id {largest_id}; the model's vocabulary ends at {vocab_size - 1}"
        raise ConfigError([Problem(str(path), "", message)])
    return tokenizer
