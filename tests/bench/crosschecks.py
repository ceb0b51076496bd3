"""The committed cross-checks, one after the other, summed up in `results/crosscheck.md`.

    make crosscheck                                     all of configs/crosscheck, with full calibrations
    python -m tests.bench.crosschecks swap --quick      some of them, coarsely

Each leaves its folder with a page under `results/crosscheck/NAME`; the summary is made of all that are there.
Ends with 1 if decisions differ, launches are not those of the kernel list, or an error is beyond its
tolerance. In CI tolerances are twice as wide (`--gate 2`), and there are three attempts, since neighbours are
noisy.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sim.cli.crosscheck import Check, crosscheck_one
from sim.cli.replay import Replay
from sim.crosscheck.observed import title_of

REPO = Path(__file__).parents[2]
CONFIGS = REPO / "configs" / "crosscheck"
JUDGED = ("tpot_p50", "e2el_mean", "ttft_p99")
_HEAD = """\
# Cross-checks

Written by `make crosscheck`: every experiment of `configs/crosscheck`, replayed on a real engine and
simulated with step times calibrated on the same device, on requests that the calibration never saw.
**Device: {device}.** {kind}
{versions} {date}

*Decisions*: plans of both schedulers in lockstep, compared to the last block id, and every counter, in every
replay. *Errors*: simulated over measured, less one, mean of {repeats} replays, with half the 95 % interval;
in brackets the replay's own spread. The rest is of the first replay. *Wrong part*: the part of the steps'
time that the cost model gets wrong most, as a fraction of all of it. *Single steps*: half of the steps that
decode (or verify drafts) are predicted within the first figure, nine of ten within the second. *Machine*: how
many times as long a yardstick took during the replay as when the device was calibrated; the simulation is
scaled by it.

| experiment | steps | decisions | {titles} | wrong part | single steps | machine | holds |
| --- | --- | --- | {lines} | --- | --- | --- | --- |
"""
_WHO_COUNTS = """\
Launches and bytes are those of the last of them, counted as it ran; on a CPU
each op declares those of the kernels that it stands for."""
_WHAT_A_RATE_COSTS = """\
What it costs to take them for independent draws at that rate, instead of
what was kept round by round:"""
_TAIL = """
Accepted are 5 % for the median TPOT, 8 % for the mean E2E and 15 % for the TTFT's 99th percentile
(`crosscheck:` in each file): what a quiet machine should keep. A shared one is not always quiet: where the
interval is as wide as the error, nothing is proved either way.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for, and sum up what is there."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="of configs/crosscheck; none: all")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, default=REPO / "results")
    parser.add_argument("--only-sum-up", action="store_true")
    parser.add_argument("--gate", type=float, default=1.0, help="how many times as wide tolerances are")
    parser.add_argument(
        "--attempts", type=int, default=1, help="of each, until one holds: machines are noisy"
    )
    options = parser.parse_args(arguments)
    names = options.names or sorted(path.stem for path in CONFIGS.glob("*.yaml"))
    folder = options.out / "crosscheck"
    fails = False
    for name in [] if options.only_sum_up else names:
        fails |= not any(_holds(name, folder / name, options) for _ in range(options.attempts))
    found = [_read(path) for path in sorted(folder.iterdir()) if (path / "crosscheck.json").exists()]
    (options.out / "crosscheck.md").write_text(page(found), encoding="utf-8")
    return int(fails)


def _holds(name: str, folder: Path, options: argparse.Namespace) -> bool:
    """One attempt, with a calibration of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    results = options.out / "crosscheck-calibrations"
    shutil.rmtree(results, ignore_errors=True)
    overrides = (f"results.dir={results}",)
    replay = Replay(CONFIGS / f"{name}.yaml", overrides, folder, options.device, shows_progress=True)
    crosscheck_one(Check(replay, is_quick=options.quick), as_json=False)
    return not fails(_read(folder), options.gate)


def fails(check: dict[str, Any], gate: float = 1.0) -> bool:
    """Whether decisions differ, launches do, or an error is beyond its tolerance, widened by a factor."""
    judged = [row for row in check["errors"] if row["tolerance"] is not None]
    beyond = any(abs(row["error"]) > gate * row["tolerance"] for row in judged)
    launches_differ = any(row["listed_launches"] != row["counted_launches"] for row in check["fusions"])
    return not check["decisions"]["equal"] or launches_differ or beyond


def page(found: Sequence[dict[str, Any]]) -> str:
    """The summary of some cross-checks."""
    facts = found[0]["environment"]["replay"]
    is_cpu = facts["device_type"] == "cpu"
    head = _HEAD.format(
        device=facts["device"],
        kind="A CPU, by its thread's time: no claim about GPUs." if is_cpu else "",
        versions=f"torch {facts['torch']}, {facts['dtype']}.",
        date=f"Calibrated {found[0]['environment']['calibration']['date'][:10]}.",
        repeats=found[0]["environment"]["repeats"],
        titles=" | ".join(title_of(metric) for metric in JUDGED),
        lines=" | ".join("---" for _ in JUDGED),
    )
    return head + "".join(_line(check) for check in found) + _fusion(found) + _acceptance(found) + _TAIL


def _line(check: dict[str, Any]) -> str:
    rows = {row["metric"]: row for row in check["errors"]}
    parts = check["attribution"]["parts"]
    worst = max(parts, key=lambda part: abs(part["error"]))
    decisions = check["decisions"]
    cells = [
        check["name"],
        f"{decisions['steps']:,}",
        f"equal{_counted(decisions['counters'])}" if decisions["equal"] else "**differ**",
        *(_error(rows[metric]) for metric in JUDGED),
        f"{worst['part']} {100 * worst['error']:+.1f} %",
        _single_steps(check["one_by_one"]),
        f"{check['environment']['machine_slowdown']:.2f}",
        "yes" if check["holds"] else "no",
    ]
    return f"| {' | '.join(cells)} |\n"


def _single_steps(rows: Sequence[dict[str, Any]]) -> str:
    """Of the kind of steps that a run is made of."""
    steps = [row for row in rows if row["of_what"] in ("time of a decode step", "time of a verify step")]
    most = max(steps, key=lambda row: row["count"])
    return f"{100 * most['half_within']:.1f} / {100 * most['most_within']:.1f} %"


def _counted(counters: dict[str, int]) -> str:
    shown = ("preemptions", "blocks_swapped_in", "blocks_copied", "prefix_hits_tokens", "accepted_tokens")
    words = [f"{counters[name]:,} {name.replace('_', ' ')}" for name in shown if counters.get(name)]
    return f" ({', '.join(words)})" if words else ""


def _error(row: dict[str, Any]) -> str:
    return f"{100 * row['error']:+.1f} ± {100 * row['half_width']:.1f} % ({100 * row['spread']:.1f} %)"


def _fusion(found: Sequence[dict[str, Any]]) -> str:
    checks = [check for check in found if check["fusions"]]
    text = ""
    for check in checks:
        first = check["fusions"][0]
        text += f"\n## Fusion: {check['name']}\n\nThe same decode steps at each level.\n{_WHO_COUNTS}\n\n"
        text += "| level | predicted, ms | measured, ms | ratio predicted | ratio measured "
        text += "| launches listed | launches counted | MB listed | MB counted |\n"
        text += "| --- | --- | --- | --- | --- | --- | --- | --- | --- |\n"
        for row in check["fusions"]:
            text += (
                f"| {row['fusion']} | {row['predicted_us'] / 1e3:.2f} | {row['measured_us'] / 1e3:.2f} "
                f"| {row['predicted_us'] / first['predicted_us']:.3f} "
                f"| {row['measured_us'] / first['measured_us']:.3f} "
                f"| {row['listed_launches']} | {row['counted_launches']} "
                f"| {row['listed_bytes'] / 1e6:.1f} | {row['counted_bytes'] / 1e6:.1f} |\n"
            )
    return text


def _acceptance(found: Sequence[dict[str, Any]]) -> str:
    text = ""
    for check in (check for check in found if check["acceptance"]):
        text += f"\n## Acceptance: {check['name']}\n\n"
        rate = f"{100 * check['acceptance_rate']:.1f} %"
        text += f"{rate} of the drafts that were looked at were kept. {_WHAT_A_RATE_COSTS}\n\n"
        text += "| figure | constant rate | recorded counts | replayed | rate costs |\n"
        text += "| --- | --- | --- | --- | --- |\n"
        for row in check["acceptance"]:
            cost = row["with_constant_rate"] / row["with_recorded_counts"] - 1
            figures = (row["with_constant_rate"], row["with_recorded_counts"], row["replayed"])
            shown = " | ".join(f"{value:,.2f}" for value in figures)
            text += f"| {title_of(row['metric'])} | {shown} | {100 * cost:+.1f} % |\n"
    return text


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "crosscheck.json").read_text(encoding="utf-8"))
    return found


if __name__ == "__main__":
    sys.exit(main())
