"""Which folder holds the weights of an experiment's model.

    shakespeare-4.7m, shakespeare-0.5m      the pair that comes with pagecast
    {hf_config: FOLDER/config.json}         that folder
    anything else                           a folder that the user names, whose sizes must be the model's

Refuses to fetch anything.
"""

from __future__ import annotations

from pathlib import Path

from gpu_backend.model.model_config import CONFIG_FILE, ModelConfig, read_model_config
from sim.cost.model import ModelShape
from sim.errors import ConfigError, Problem

_CHECKPOINTS = Path(__file__).parents[1] / "checkpoints"
SHIPPED = {"shakespeare-4.7m": _CHECKPOINTS / "target", "shakespeare-0.5m": _CHECKPOINTS / "draft"}
_SIZES = (
    "num_hidden_layers",
    "hidden_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
)


def folder_of_model(reference: str, shape: ModelShape, chosen: Path | None, option: str) -> Path:
    """The folder of a model.

    Args:
        reference: What the experiment calls it.
        shape: Its sizes there.
        chosen: The folder that the user named; None: none.
        option: How he can name one.

    Raises:
        ConfigError: No folder is known, or its config.json has other sizes.
    """
    folder = chosen or SHIPPED.get(reference)
    if folder is None and reference.endswith(CONFIG_FILE):
        folder = Path(reference).parent
    if folder is None:
        message = (
            f"no weights are known for {reference}: name its Hugging Face folder with {option} FOLDER, or "
            f"serve a model that comes with pagecast ({', '.join(SHIPPED)})"
        )
        raise ConfigError([Problem("model", "", message)])
    _check_sizes(read_model_config(folder), shape, folder)
    return folder


def _check_sizes(config: ModelConfig, shape: ModelShape, folder: Path) -> None:
    faults = [
        Problem(
            str(folder / CONFIG_FILE),
            name,
            f"is {getattr(config, name)}; {shape.name} has {getattr(shape, name)}",
        )
        for name in _SIZES
        if getattr(config, name) != getattr(shape, name)
    ]
    if faults:
        raise ConfigError(faults)
