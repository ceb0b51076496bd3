"""Writes plain data as YAML that `sim.config.yaml_source`, and any YAML 1.1 or 1.2 reader, reads back equal.

Owns quoting: PyYAML writes the text '1e3' bare, which YAML 1.2 (and our reader) takes for a number.
"""

from __future__ import annotations

from typing import Any

import yaml

from sim.config.yaml_source import resolve_plain


class _Dumper(yaml.SafeDumper):
    """A safe dumper that quotes whatever could be read as something else than text."""

    def ignore_aliases(self, data: Any) -> bool:  # a value that occurs twice is written twice
        return True


def _is_read_as_text(text: str) -> bool:
    try:
        return resolve_plain(text) == text
    except ValueError:
        return False


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = None if _is_read_as_text(text) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)


def dump_yaml(data: Any) -> str:
    """`data` (mappings, lists, text, numbers, true, false, null) as YAML, in the order given."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, width=100)
