"""The JSON Schema for editors: whole, and in agreement with what is accepted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]  # it ships no types
import pytest

from sim.config import json_schema, load_experiment
from sim.config.yaml_source import read_yaml

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def properties(schema: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every property of a schema, with where it stands."""
    if isinstance(schema, dict):
        for name, value in schema.get("properties", {}).items():
            yield f"{path}.{name}", value
        for key, value in schema.items():
            yield from properties(value, f"{path}.{key}")


def test_the_schema_is_a_valid_json_schema_of_2020_12() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_key_is_described() -> None:
    described = dict(properties(SCHEMA))
    assert len(described) > 60
    assert [
        path for path, value in described.items() if not (value.get("description") or "const" in value)
    ] == []


def test_keys_with_a_dimension_show_a_unit() -> None:
    arrivals = SCHEMA["$defs"]["PoissonSection"]["properties"]["rate"]
    assert (arrivals["type"], arrivals["examples"]) == ("string", ["10 /s"])


EXPERIMENTS = [
    path for path in sorted(CONFIGS.rglob("*.yaml")) if path.parent.name not in ("hardware", "models")
]


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_our_own_configurations_satisfy_the_schema(path: Path) -> None:
    assert list(VALIDATOR.iter_errors(read_yaml(path).data)) == []


@pytest.mark.parametrize("name", ["quickstart", "chat_l40s", "crosscheck/speculation", "crosscheck/fusion"])
def test_a_resolved_configuration_satisfies_the_schema(name: str) -> None:
    resolved = load_experiment(CONFIGS / f"{name}.yaml").resolved()
    assert list(VALIDATOR.iter_errors(resolved)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("seeds",), 1),
        (("engine", "block_size"), 0),
        (("engine", "batching"), {"kind": "dynamik"}),
        (("slo", "ttft"), 5),
        (("slo", "ttft"), "5"),
        (("slo", "ttft"), "-5 ms"),
        (("slo", "ttft"), "5 GB"),
        (("workload", "arrivals", "rate"), 10),
    ],
)
def test_what_is_refused_fails_the_schema_too(path: tuple[str, ...], value: object) -> None:
    data = load_experiment(CONFIGS / "quickstart.yaml").resolved()
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    assert list(VALIDATOR.iter_errors(data))
