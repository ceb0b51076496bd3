"""How the keys of a summary are spelled, and which definition belongs to a key.

`vllm bench serve` spells a latency's statistics `mean_ttft_ms`, `p99.9_ttft_ms`; its four latencies have
exactly these keys here, ours have the prefix `sim_`. Every key that `metrics.summarize` writes has a
definition, and a test holds the two together.
"""

from __future__ import annotations

import re

from sim.metrics.definitions import LATENCIES, SCALARS, Group, Metric

PERCENTILES = (1.0, 5.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9)
VLLM_LATENCIES = frozenset(("ttft", "tpot", "itl", "e2el"))
GOALS = ("ttft", "tpot", "e2el")

_SCALAR_BY_NAME = {metric.name: metric for metric in SCALARS}
_LATENCY_BY_NAME = {metric.name: metric for metric in LATENCIES}
_LATENCY_KEY = re.compile(r"(?:sim_)?(?:mean|median|std|p[0-9.]+)_(?P<name>\w+)_ms")
_PLACE_KEY = re.compile(r"sim_acceptance_rate_at_(?P<place>\d+)")
_GOAL_KEY = re.compile(r"sim_slo_(?P<name>ttft|tpot|e2el)_(?P<what>ms|met|attainment)")


def statistic_key(statistic: str, latency: str) -> str:
    """The key of one statistic (`mean`, `std`, `p99` ...) of a latency, as `vllm bench serve` spells it."""
    key = f"{statistic}_{latency}_ms"
    return key if latency in VLLM_LATENCIES else f"sim_{key}"


def percentile_word(percentile: float) -> str:
    """`median` for 50, else `p99`, `p99.9`."""
    return "median" if percentile == 50 else f"p{percentile:g}"


def definition_of(key: str) -> Metric | None:
    """What a key of a summary means; None for a key that is no metric."""
    if key in _SCALAR_BY_NAME:
        return _SCALAR_BY_NAME[key]
    if match := _PLACE_KEY.fullmatch(key):
        place = match["place"]
        formula = f"of the drafts at place {place} of their run, up to a sample's last token, those kept"
        return Metric(key, Group.SPECULATION, f"acceptance at {place}", "fraction", formula)
    if match := _GOAL_KEY.fullmatch(key):
        return _goal_metric(key, match["name"], match["what"])
    if match := _LATENCY_KEY.fullmatch(key):
        return _LATENCY_BY_NAME.get(match["name"])
    return None


def _goal_metric(key: str, name: str, what: str) -> Metric:
    title = _LATENCY_BY_NAME[name].title
    match what:
        case "ms":
            return Metric(key, Group.GOALS, f"{title} goal", "ms", f"a request meets it with {title} <= goal")
        case "met":
            rule = "; one token meets it" if name == "tpot" else ""
            return Metric(
                key, Group.GOALS, f"{title} met", "", f"completed requests with {title} <= goal{rule}"
            )
        case _:
            return Metric(key, Group.GOALS, f"{title}: share", "fraction", f"{title} met / requests judged")
