"""Reading a model from a Hugging Face folder: `config.json` and safetensors, in one file or in shards.

Owns which files hold which tensors, and every complaint about them. Refuses pickles: a `.bin` file can run
code when it is read, so it is never opened. Invariant: what is returned has exactly the tensors and shapes
that the config asks for; shapes are compared before anything is read, and all faults are told at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from gpu_backend.model.llama import LlamaModel
from gpu_backend.model.model_config import ModelConfig, read_model_config
from gpu_backend.model.weights import HEAD, expected_shapes, pack
from gpu_backend.ops.implementation import Implementation
from sim.errors import ConfigError, Problem
from workloads.text import parse_json

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
_MAX_NAMED = 8
_UNUSED_SUFFIX = ".rotary_emb.inv_freq"  # old exports keep the frequencies; we compute them


def load_model(
    folder: Path,
    dtype: torch.dtype,
    device: torch.device,
    implementation: Implementation = Implementation.TWIN,
) -> LlamaModel:
    """Load a folder's model, its weights in one dtype on one device.

    Raises:
        ConfigError: Naming the file and what is wrong: missing, truncated, of other shapes, not supported.
    """
    config = read_model_config(folder)
    tensors = read_tensors(folder, config, dtype, device)
    return LlamaModel(config, pack(config, tensors), implementation)


def read_tensors(
    folder: Path, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """Every tensor the config asks for, under its Hugging Face name."""
    problems: list[Problem] = []
    files = _weight_files(folder)
    tensors: dict[str, Tensor] = {}
    found: set[str] = set()
    shapes = expected_shapes(config)
    for path in files:
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                names = set(file.keys())
                problems += _faults_of_shapes(file, names, shapes, path)
                found |= names
                if not problems:
                    for name in names & shapes.keys():
                        tensors[name] = file.get_tensor(name).to(device, dtype)
        except FileNotFoundError:
            problems.append(Problem(str(path), "", "is missing: the index names it as a shard"))
        except (safetensors.SafetensorError, OSError) as error:
            problems.append(Problem(str(path), "", f"is no whole safetensors file: {error}"))
    if not problems:
        problems += _faults_of_names(found, shapes, files[0] if len(files) == 1 else folder / INDEX_FILE)
    if problems:
        raise ConfigError(problems)
    return tensors


def _weight_files(folder: Path) -> list[Path]:
    index, whole = folder / INDEX_FILE, folder / WEIGHTS_FILE
    if index.exists():
        return [folder / name for name in _shards(index)]
    if whole.exists():
        return [whole]
    message = f"holds neither {WEIGHTS_FILE} nor {INDEX_FILE}"
    if any(folder.glob("*.bin")):
        message += "; pickled weights (.bin) are never read: convert them to safetensors"
    raise ConfigError([Problem(str(folder), "", message)])


def _shards(index: Path) -> list[str]:
    """File names of an index, each once, in order; names that leave the folder are refused."""
    try:
        weight_map = parse_json(index.read_text(encoding="utf-8"))["weight_map"]
        names = sorted(set(weight_map.values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError([Problem(str(index), "weight_map", f"cannot be read: {error!r}")]) from None
    outside = [name for name in names if not isinstance(name, str) or Path(name).name != name]
    if outside or not names:
        message = f"names no file of this folder: {outside}" if outside else "names no file"
        raise ConfigError([Problem(str(index), "weight_map", message)])
    return names


def _faults_of_shapes(
    file: safetensors.safe_open, names: Iterable[str], shapes: dict[str, tuple[int, ...]], path: Path
) -> list[Problem]:
    problems = []
    for name in sorted(set(names) & shapes.keys()):
        piece = file.get_slice(name)  # type: ignore[no-untyped-call]  # its stub lacks it
        shape = tuple(piece.get_shape())
        if shape != shapes[name]:
            message = f"has shape {list(shape)}; config.json asks for {list(shapes[name])}"
            problems.append(Problem(str(path), name, message))
        elif piece.get_dtype() not in ("F64", "F32", "F16", "BF16"):
            problems.append(
                Problem(str(path), name, f"has dtype {piece.get_dtype()}, which is not supported")
            )
    return problems


def _faults_of_names(found: set[str], shapes: dict[str, tuple[int, ...]], path: Path) -> list[Problem]:
    problems = []
    missing = sorted(shapes.keys() - found)
    unknown = sorted(
        name for name in found - shapes.keys() if name != HEAD and not name.endswith(_UNUSED_SUFFIX)
    )
    if missing:
        problems.append(Problem(str(path), "", f"lacks {_listed(missing)}"))
    if unknown:
        problems.append(
            Problem(str(path), "", f"holds what config.json does not ask for: {_listed(unknown)}")
        )
    return problems


def _listed(names: list[str]) -> str:
    rest = len(names) - _MAX_NAMED
    return ", ".join(names[:_MAX_NAMED]) + (f" and {rest} more" if rest > 0 else "")
