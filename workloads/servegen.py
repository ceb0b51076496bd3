"""ServeGen client files as a generator: each client's rate, burstiness and lengths, window by window.

`chunk-N-trace.csv` (no header) holds `window_start_s, rate_per_s, cv, pattern, shape, scale` for windows
of 600 s: gaps are drawn from the gamma or Weibull law with that shape and scale, then scaled so that the
window holds rate x 600 requests. `chunk-N-dataset.json` holds length histograms by windows of six hours,
written as Python literals. The two lengths of a request are drawn independently, as the files hold no
joint law. Source: alibaba/ServeGen, Apache-2.0; cite Xiang et al., NSDI 2026.
"""

from __future__ import annotations

import ast
import bisect
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from workloads.errors import WorkloadError
from workloads.lengths import Empirical, draw_lengths
from workloads.spec import MAX_REQUESTS, Ints, Workload
from workloads.streams import stream
from workloads.text import parse_json, parse_number
from workloads.traces.rows import NS_PER_S, csv_lines, read_text

WINDOW_S = 600
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ServeGenWorkload:
    """Clients and the stretch of time in which they are watched.

    Attributes:
        folder: Where the `chunk-N-*` files lie.
        clients: Their numbers N; empty: all in the folder.
        window_start_ns: Start of the stretch; a multiple of 600 s.
        window_end_ns: Its end; a multiple of 600 s.
        rate_scale: How many times as many requests.
    """

    folder: Path
    window_end_ns: int
    clients: tuple[int, ...] = ()
    window_start_ns: int = 0
    rate_scale: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate_scale) and self.rate_scale > 0):
            raise WorkloadError(f"rate_scale must be a positive number, not {self.rate_scale}")
        if not 0 <= self.window_start_ns < self.window_end_ns:
            raise WorkloadError("window: its end must come after its start, and its start not before 0")
        for name in ("window_start_ns", "window_end_ns"):
            if getattr(self, name) % (WINDOW_S * NS_PER_S):
                raise WorkloadError(f"{name.removesuffix('_ns')}: must be a multiple of {WINDOW_S} s")


def make_servegen(config: ServeGenWorkload, seed: int) -> Workload:
    """Draw all clients' requests and merge them by time."""
    if not config.folder.is_dir():
        raise WorkloadError(f"{config.folder}: no such folder of ServeGen client files")
    numbers = config.clients or _clients_in(config.folder)
    columns = [_draw_client(config, number, seed) for number in numbers]
    arrival, prompt, output = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    order = np.argsort(arrival, kind="stable")
    if not len(order):
        raise WorkloadError(f"{config.folder}: no request is left: these clients are idle in that window")
    return Workload(
        name=f"{config.folder.name} ({len(numbers)} clients)",
        arrival_ns=arrival[order],
        prompt_tokens=prompt[order],
        output_tokens=output[order],
        sessions=None,
    )


def _clients_in(folder: Path) -> tuple[int, ...]:
    names = (path.name.split("-")[1] for path in folder.glob("chunk-*-trace.csv"))
    numbers = sorted(int(name) for name in names if name.isdigit())
    if not numbers:
        raise WorkloadError(f"{folder}: holds no chunk-N-trace.csv file")
    return tuple(numbers)


def _draw_client(config: ServeGenWorkload, number: int, seed: int) -> tuple[Ints, Ints, Ints]:
    rng = stream(seed, f"servegen.client.{number}")
    histograms = _Histograms(config.folder / f"chunk-{number}-dataset.json")
    arrivals: list[Ints] = []
    prompts: list[Ints] = []
    outputs: list[Ints] = []
    first, last = (ns // NS_PER_S for ns in (config.window_start_ns, config.window_end_ns))
    for start_s, rate_per_s, pattern, shape, scale in _windows(config.folder / f"chunk-{number}-trace.csv"):
        count = round(rate_per_s * config.rate_scale * WINDOW_S)
        if not first <= start_s < last or not count:
            continue
        if count > MAX_REQUESTS:
            raise WorkloadError(
                f"client {number}: {count:,} requests in one window are more than can be simulated, "
                f"{MAX_REQUESTS:,}: lower rate_scale"
            )
        times_s = _renewal(pattern, shape, scale, count, rng) + (start_s - first)
        arrivals.append(np.rint(times_s * NS_PER_S).astype(np.int64))
        for lengths, name in ((prompts, "input_tokens"), (outputs, "output_tokens")):
            lengths.append(draw_lengths(histograms.at(start_s, name), count, rng))
    nothing = np.zeros(0, dtype=np.int64)
    return tuple(np.concatenate([nothing, *parts]) for parts in (arrivals, prompts, outputs))  # type: ignore[return-value]


def _renewal(pattern: str, shape: float, scale: float, count: int, rng: np.random.Generator) -> Floats:
    """Times within one window, ascending."""
    gaps = rng.gamma(shape, scale, count + 1) if pattern == "Gamma" else scale * rng.weibull(shape, count + 1)
    times = np.cumsum(gaps)
    scaled: Floats = times[:-1] * (WINDOW_S / times[-1])
    return scaled


def _windows(path: Path) -> list[tuple[int, float, str, float, float]]:
    windows = []
    for line, row in csv_lines(path, read_text(path).splitlines(), 1):
        try:
            start, rate, _, pattern, *law = row
            shape, scale = map(parse_number, law)
            window = (int(parse_number(start)), parse_number(rate), pattern, shape, scale)
        except (ValueError, OverflowError) as error:
            raise WorkloadError(
                f"{path}:{line}: must hold window_start_s,rate_per_s,cv,pattern,shape,scale: {error}"
            ) from error
        if window[1] > 0:
            if pattern not in ("Gamma", "Weibull"):
                raise WorkloadError(f"{path}:{line}: pattern must be Gamma or Weibull, not {pattern!r}")
            if not (0 < window[3] < math.inf and 0 < window[4] < math.inf and window[1] < math.inf):
                raise WorkloadError(f"{path}:{line}: rate, shape and scale must be positive numbers")
        windows.append(window)
    return windows


class _Histograms:
    """Length histograms of one client by window start."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            document = parse_json(read_text(path))
            self._by_start = {int(parse_number(start)): windows for start, windows in document.items()}
        except (ValueError, OverflowError, AttributeError) as error:
            raise WorkloadError(f"{path}: not a ServeGen dataset file: {error}") from error
        self._starts = sorted(self._by_start)
        self._parsed: dict[tuple[int, str], Empirical] = {}

    def at(self, start_s: int, name: str) -> Empirical:
        """The law of `name` in force at a time; an empty window takes the nearest before, or else after."""
        place = max(bisect.bisect_right(self._starts, start_s) - 1, 0)
        for start in [*reversed(self._starts[: place + 1]), *self._starts[place + 1 :]]:
            law = self._law(start, name)
            if law is not None:
                return law
        raise WorkloadError(f"{self._path}: no window has {name}")

    def _law(self, start: int, name: str) -> Empirical | None:
        key = (start, name)
        if key not in self._parsed:
            try:
                literal = ast.literal_eval(self._by_start[start][name])
                values = {int(length): float(weight) for length, weight in literal.items() if int(length) > 0}
            except (
                ValueError,
                SyntaxError,
                KeyError,
                AttributeError,
                TypeError,
                MemoryError,
                RecursionError,
            ) as error:
                raise WorkloadError(f"{self._path}: window {start}: {name}: no histogram: {error}") from error
            if not values:
                return None
            self._parsed[key] = Empirical(tuple(values), tuple(values.values()))
        return self._parsed[key]
