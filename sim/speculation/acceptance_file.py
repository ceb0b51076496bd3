"""Files of accepted counts: what an engine measured, for `speculation.acceptance: {kind: recorded}`.

    {"num_speculative_tokens": 4, "accepted": {"0": [[3, 0, 4]], "1": [[2, 2], [1]]}}

By request (its place in the workload) one list for each sample: drafts kept in its first, second, ... round.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sim.errors import ConfigError, Problem
from sim.speculation.acceptance import Recorded
from workloads.spec import Workload
from workloads.text import parse_json


def read_recorded(path: Path) -> Recorded:
    """Accepted counts of a file.

    Raises:
        ConfigError: It cannot be read, or is not of this form; the place within it is named.
    """
    try:
        data = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise _wrong(path, "", f"cannot be read: {error}") from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            [Problem(str(path), "", f"is not JSON: {error.msg}", error.lineno, error.colno)]
        ) from error
    if not isinstance(data, dict) or not isinstance(data.get("accepted"), dict):
        raise _wrong(path, "accepted", "must be there: lists of accepted counts by request")
    counts: dict[tuple[int, int], tuple[int, ...]] = {}
    for name, samples in data["accepted"].items():
        if not name.isdecimal() or not isinstance(samples, list):
            raise _wrong(path, f"accepted.{name}", "must be a request's number with one list for each sample")
        for sample, runs in enumerate(samples):
            counts[int(name), sample] = _runs(runs, path, f"accepted.{name}[{sample}]")
    return Recorded(counts)


def dump_recorded(counts: Mapping[tuple[int, int], tuple[int, ...]], num_speculative_tokens: int) -> str:
    """Accepted counts, by (request, sample), as the text that `read_recorded` reads."""
    accepted: dict[str, list[list[int]]] = {}
    for (request, sample), runs in sorted(counts.items()):
        samples = accepted.setdefault(str(request), [])
        samples += [[] for _ in range(sample + 1 - len(samples))]
        samples[sample] = list(runs)
    data = {"num_speculative_tokens": num_speculative_tokens, "accepted": accepted}
    return json.dumps(data) + "\n"


def check_recorded(recorded: Recorded, path: Path, workload: Workload, num_speculative_tokens: int) -> None:
    """Whether a recording lasts as long as a workload does, before anything is run.

    A round of `a` accepted drafts gives `a + 1` tokens; the first token comes out of the prompt.

    Raises:
        ConfigError: A request is not in it, its rounds end too soon, or a round kept more than is drafted.
    """
    for request, num_tokens in enumerate(workload.output_tokens.tolist()):
        for sample in range(workload.num_samples):
            runs, key = recorded.counts.get((request, sample), ()), f"accepted.{request}[{sample}]"
            num_recorded = sum(runs) + len(runs)
            if num_recorded < num_tokens - 1:
                raise _wrong(
                    path,
                    key,
                    f"is shorter than the run: {num_recorded} tokens of {num_tokens - 1} are recorded",
                )
            if max(runs, default=0) > num_speculative_tokens:
                message = (
                    f"a run kept {max(runs)} drafts, and num_speculative_tokens is {num_speculative_tokens}"
                )
                raise _wrong(path, key, message)


def _runs(runs: Any, path: Path, key: str) -> tuple[int, ...]:
    is_count = [isinstance(run, int) and not isinstance(run, bool) and run >= 0 for run in runs or ()]
    if not isinstance(runs, list) or not all(is_count):
        raise _wrong(path, key, "must be a list of counts, each 0 or more")
    return tuple(runs)


def _wrong(path: Path, key: str, message: str) -> ConfigError:
    return ConfigError([Problem(str(path), key, message)])
