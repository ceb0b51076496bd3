"""The page of a cross-check, `crosscheck.html`, and its folder.

    crosscheck.html     verdict, tables, pictures, environment
    crosscheck.json     the same as data
    requests.csv        latencies of every request, simulated and replayed; steps.csv every step, part by part
    pictures/           distributions, timeline, attribution, as SVG and PNG
    replay/             the first replay's run folder
    simulation/         the run folder of its simulation in time

Refuses to have numbers of its own. Written whole or not at all.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from sim.crosscheck.pictures import write_pictures
from sim.crosscheck.text import crosscheck_text, verdict_text
from sim.crosscheck.verdict import Crosscheck
from sim.report.html import facts_table, html_page, images, section, terminal_text
from sim.results.whole_folder import WholeFolder

_WIDTH = 128
_HOW_TO_READ = """\
<p>The same workload was <b>replayed</b> on a real engine ({device}) and <b>simulated</b> with step times that
were calibrated on it beforehand. <i>Decisions</i> compares what both schedulers did, step by step, when every
step ends at the same moment: it has to be equal. <i>Time</i> compares latencies when the simulator predicts
each step's time; an error is simulated over replayed, less one. <i>Error of busy time</i> says which part of
a step the simulator gets wrong, and, for the model's part, what that error grows with: steps alike, tokens
computed, or tokens attended to; <i>schedule diverging</i> is what is left, because requests met in other
batches. <i>One by one</i>: half of single requests and steps are off by no more than the first figure, nine
of ten by no more than the second.</p>"""


def write_crosscheck(
    folder: Path, check: Crosscheck, write_runs: Callable[[Path], None], *, with_pictures: bool = True
) -> Path:
    """Write a cross-check's folder; returns its page.

    Args:
        folder: What it is to be called; one that is there makes it get another name.
        check: What was found.
        write_runs: Writes both run folders into the folder it is given.
        with_pictures: Whether to draw.

    Raises:
        ConfigError: The folder cannot be written.
    """
    writing = WholeFolder(folder)
    with writing as partial:
        write_runs(partial)
        pictures = []
        if with_pictures:
            pictures = write_pictures(
                partial / "pictures", check.simulated, check.replayed, check.attribution, check.name
            )
        (partial / "crosscheck.json").write_text(
            json.dumps(check.to_json(), indent=2) + "\n", encoding="utf-8"
        )
        for name, text in check.differences.files().items():
            (partial / name).write_text(text, encoding="utf-8")
        names = [picture.relative_to(partial).as_posix() for picture in pictures]
        (partial / "crosscheck.html").write_text(crosscheck_page(check, names), encoding="utf-8")
    return writing.folder / "crosscheck.html"


def crosscheck_page(check: Crosscheck, pictures: Sequence[str]) -> str:
    """The page; `pictures` are addresses of images, relative to it."""
    facts = device_facts(check.environment)
    explanation = _HOW_TO_READ.format(device=escape(facts.get("device", "a device")))
    parts = [explanation, section("Numbers", terminal_text(crosscheck_text(check), _WIDTH))]
    if pictures:
        parts.append(section("Pictures", images(pictures)))
    parts.append(section("Environment", facts_table(facts)))
    if check.warnings:
        listed = "".join(f"<li>{escape(warning)}</li>" for warning in check.warnings)
        parts.append(section("What was not measured", f"<ul>{listed}</ul>"))
    title = f"Cross-check: {check.name}"
    return page_with_verdict(title, verdict_text(check).plain, holds=check.holds, parts=parts)


def page_with_verdict(title: str, verdict: str, *, holds: bool | None, parts: Sequence[str]) -> str:
    """A page with a verdict on top; grey where nothing is judged."""
    colour = {True: "#009E73", False: "#C23B00", None: "#6B6B6B"}[holds]
    judged = f'<p class="verdict" style="border-color: {colour}">{escape(verdict)}</p>'
    return html_page(title, [judged, *parts])


def device_facts(environment: Mapping[str, Any]) -> dict[str, str]:
    """What a reader wants to know of the device and the calibration."""
    replay, calibration = environment.get("replay", {}), environment.get("calibration", {})
    spread, slowdown = calibration.get("spread_fraction", 0.0), environment.get("machine_slowdown", 1.0)
    kind = ", ".join(str(replay[key]) for key in ("device_type", "dtype") if key in replay)
    took_s, repeats = calibration.get("took_s"), environment.get("repeats", 1)
    grid = "coarse grid (--quick)" if calibration.get("quick") else "full grid"
    facts = {
        "replays": f"{repeats}; errors are means over all, decisions are those of all; pictures, parts of "
        "the error and single requests and steps are the first one's",
        "device": f"{replay.get('device', 'not said')} ({kind})",
        "fusion": str(replay.get("fusion")),
        "clock": str(replay.get("clock")),
        "torch": str(replay.get("torch")),
        "triton": str(replay.get("triton")),
        "calibrated": f"{calibration['date']}, {grid}, in {took_s:.0f} s" if took_s else "None",
        "pagecast": str(calibration.get("pagecast")),
        "calibration's spread": f"{100 * spread:.1f} % (half the distance between quartiles, median step)",
        "machine meanwhile": f"took {slowdown:.3f} times as long as when it was calibrated, by a yardstick; "
        "the simulation takes that into account",
    }
    return {name: text for name, text in facts.items() if text != "None"}
