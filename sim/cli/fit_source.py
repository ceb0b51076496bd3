"""What `pagecast fit --from` does: another project's measurements in, a whole hardware file out.

Curves are fitted to the measurements. Whatever these do not hold (memory, datasheet rates, the host's
figures) is taken from the catalogue's file of that GPU, or from `--base`, and keeps the source that it has
there; so do curves that nothing was measured for.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sim.cli.fit import curve_section, named, write
from sim.cli.fitted import Fitted, Refused, draw, fit_one
from sim.config.catalog import hardware_document, load_model
from sim.config.hardware import HardwareFile
from sim.config.yaml_dump import dump_yaml
from sim.cost.fit_rows import in_order
from sim.cost.hardware import Gpu
from sim.errors import ConfigError, Problem
from sim.tables import aiconfigurator, llmservingsim, vidur
from sim.tables.measurements import Measurements
from sim.tables.wheel import datasheet, systems_folder

CATALOGUE = {
    "a100_sxm": "a100-80gb-sxm",
    "h100_sxm": "h100-sxm",
    "h200_sxm": "h200",
    "b200_sxm": "b200",
    "l40s": "l40s",
    "rtx_pro_6000_server": "rtx-pro-6000",
}
"""Systems of AIConfigurator that the catalogue has a file of."""
KIN = {"b300_sxm": "b200", "gb200": "b200", "gb300": "b200"}
"""Systems without one, and the file that their host's figures are taken from; rates are AIConfigurator's."""


@dataclass(frozen=True, slots=True)
class Base:
    """The hardware file that a new one starts from: what it was asked for by, and what it says."""

    reference: str
    document: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for; None: not said.

    Attributes:
        folder: Of the profile, or of an unpacked wheel. base: The hardware file that the rest is taken from.
    """

    origin: str
    folder: Path | None = None
    base: str | None = None
    system: str | None = None
    backend: str = "vllm"
    version: str | None = None
    collectives: str = "custom"
    model: str | None = None


def fit_source(asked: Asked, out: Path, report: Path | None = None) -> None:
    """Make a hardware file, and a picture of its curves where `report` names one.

    Raises:
        ConfigError: Something is not there or wrong; nothing is written.
    """
    measured, base = read_source(asked)
    found, gpu = [], gpu_of(base)
    for table in in_order(measured.tables):
        found.append(fit_one(table, gpu, out))
        gpu = found[-1].on(gpu)
    fits = [fitted for fitted in found if isinstance(fitted, Fitted)]
    if not fits:
        raise ConfigError([Problem(measured.source, "", "no curve could be fitted")])
    refused = [one for one in found if isinstance(one, Refused)]
    _say_what_is_missing(measured, refused, base.document)
    if report is not None:
        draw(fits, gpu, report)
    write(out, _header(measured, base, refused) + dump_yaml(_document(measured, base, fits, asked)))


def gpu_of(base: Base) -> Gpu:
    """The GPU whose rates the fractions of its curves are of."""
    return HardwareFile.model_validate(base.document).gpu()


def read_source(asked: Asked) -> tuple[Measurements, Base]:
    """What was measured, and the file that everything else is taken from.

    Raises:
        ConfigError: Something is not there or wrong.
    """
    match asked.origin:
        case "aiconfigurator":
            return _read_aiconfigurator(asked)
        case "llmservingsim":
            folder, base = _folder_and_base(asked)
            name = asked.model or llmservingsim.model_name(folder)
            return llmservingsim.read(folder, named(load_model, name, "--model")), base
        case "vidur":
            folder, base = _folder_and_base(asked)
            return vidur.read(folder), base
        case other:
            message = f"'{other}' is not aiconfigurator, llmservingsim or vidur"
            raise ConfigError([Problem("--from", "", message)])


def _folder_and_base(asked: Asked) -> tuple[Path, Base]:
    if asked.folder is None:
        raise ConfigError([Problem("FOLDER", "", f"say where the profiles of {asked.origin} lie")])
    if not asked.folder.is_dir():
        raise ConfigError([Problem(str(asked.folder), "", "is no folder")])
    if asked.base is None:
        message = "say which GPU was measured: what was not is taken from its file"
        raise ConfigError([Problem("--base", "", message)])
    return asked.folder, Base(asked.base, named(hardware_document, asked.base, "--base"))


def _read_aiconfigurator(asked: Asked) -> tuple[Measurements, Base]:
    if asked.system is None or asked.version is None:
        missing = "--system" if asked.system is None else "--version"
        raise ConfigError([Problem(missing, "", "say which; `pagecast tables` lists what is there")])
    if asked.collectives not in ("custom", "nccl"):
        raise ConfigError([Problem("--collectives", "", f"'{asked.collectives}' is not custom or nccl")])
    folder = systems_folder(asked.folder)
    wanted = aiconfigurator.Wanted(asked.system, asked.backend, asked.version, asked.collectives)
    measured = aiconfigurator.read(folder, wanted)
    reference = asked.base or CATALOGUE.get(asked.system) or KIN.get(asked.system)
    if reference is None:
        message = f"the catalogue has no file of {asked.system}: say which file has its rates and its host"
        raise ConfigError([Problem("--base", "", message)])
    document = named(hardware_document, reference, "--base")
    if asked.base is None and asked.system in KIN:
        document = {**document, "name": asked.system.replace("_", "-"), **_rates(folder, asked.system)}
        document.pop("curves", None)
    return measured, Base(reference, document)


def _rates(folder: Path, system: str) -> dict[str, Any]:
    """Figures of a datasheet as AIConfigurator has them."""
    note = "as NVIDIA aiconfigurator has it"
    return {
        key: {"value": value, "unit": unit, "source": "datasheet", "note": note}
        for key, (value, unit) in datasheet(folder, system).items()
    }


def _say_what_is_missing(measured: Measurements, refused: Sequence[Refused], base: dict[str, Any]) -> None:
    """What was measured and is not in the file, and what is in the file and was not measured."""
    for one in refused:
        kind = one.table.kind.value
        instead = (
            "that of the base file stays" if kind in base.get("curves", {}) else "an H100's is taken over"
        )
        sys.stderr.write(f"refused {kind}: {one.why}; {instead}\n")
    for sentence in measured.left_out:
        sys.stderr.write(f"left out: {sentence}\n")


def _header(measured: Measurements, base: Base, refused: Sequence[Refused]) -> str:
    """Comments above everything else: what is from where."""
    lines = [
        f"Made by `pagecast fit`. Curves without a note of their own: {measured.source}"
        + (f" ({measured.device})." if measured.device else "."),
        f"Everything else, the host's figures above all: as in {base.reference}, with its own sources.",
        *(f"Refused, so not from these measurements: {one.table.kind.value}." for one in refused),
    ]
    return "".join(f"# {line}\n" for line in lines)


def _document(measured: Measurements, base: Base, fits: Sequence[Fitted], asked: Asked) -> dict[str, Any]:
    """The base file with the fitted curves in it; curves that it has besides say that they are its own."""
    kept = {
        name: {"note": f"from {base.reference}, not from {measured.source}", **section}
        for name, section in base.document.get("curves", {}).items()
    }
    curves = {fitted.name: curve_section(fitted.curve) for fitted in fits}
    version = f"-{asked.backend}-{asked.version}" if asked.version else f"-{asked.origin}"
    return {**base.document, "name": base.document["name"] + version, "curves": {**kept, **curves}}
