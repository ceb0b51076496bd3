"""YAML is read strictly: what a file seems to say is what it says, and faults have a place."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sim.config.yaml_dump import dump_yaml
from sim.config.yaml_source import MAX_BYTES, MAX_DEPTH, Mark, parse_yaml, read_yaml
from sim.errors import ConfigError


def faults(text: str) -> list[str]:
    """Everything wrong with a text."""
    try:
        return [str(problem) for problem in parse_yaml(text, "f.yaml").problems]
    except ConfigError as error:
        return [str(problem) for problem in error.problems]


@pytest.mark.parametrize(
    ("scalar", "value"),
    [
        ("1e3", 1000.0),
        ("1.5", 1.5),
        ("-.5", -0.5),
        ("1.", 1.0),
        ("16", 16),
        ("+4", 4),
        ("true", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("off", "off"),
        ("on", "on"),
        ("yes", "yes"),
        ("No", "No"),
        ("True", "True"),
        ("2026-01-01", "2026-01-01"),
        ("12:30:00", "12:30:00"),
        ("1_000", "1_000"),
        ("0x10", "0x10"),
        ("10 /s", "10 /s"),
        ("'16'", "16"),
        (".inf", float("inf")),
    ],
)
def test_scalars_mean_what_they_look_like(scalar: str, value: Any) -> None:
    read = parse_yaml(f"a: {scalar}", "f.yaml").data["a"]
    assert read == value
    assert type(read) is type(value)


def test_every_key_and_value_knows_its_place() -> None:
    document = parse_yaml("top:\n  inner: [1, two]\n", "f.yaml")
    assert document.keys["top", "inner"] == Mark("f.yaml", 2, 3)
    assert document.values["top", "inner", 1] == Mark("f.yaml", 2, 14)
    assert document.key_mark(("top", "absent", "deeper")) == Mark("f.yaml", 1, 1)
    assert document.value_mark(("top", "inner", 7)) == Mark("f.yaml", 2, 3)


def test_several_faults_are_reported_at_once_in_file_order() -> None:
    assert faults("a: 1\na: 2\nb: 007\n<<: {}\n? [1]\n: 2\nc: " + "9" * 25) == [
        "f.yaml:2:1: a: duplicate key; first on line 1",
        "f.yaml:3:4: b: 007 has a leading zero, octal to some: write 7, or quote",
        "f.yaml:4:1: <<: merge keys are not read: repeat the keys",
        "f.yaml:5:3: a key must be text, not a list or a mapping",
        "f.yaml:7:4: c: the number 999999999999... (25 digits) is too large",
    ]


def test_of_duplicate_keys_the_first_counts() -> None:
    assert parse_yaml("a: 1\na: 2", "f.yaml").data == {"a": 1}


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("a: [1,\nb: }", "f.yaml:2:4: not YAML: expected the node content"),
        ("a: 1\n b: 2", "f.yaml:2:3: not YAML: mapping values are not allowed here"),
        ("a: 'x", "f.yaml:1:6: not YAML: found unexpected end of stream"),
        ("a:\n\t- b", "f.yaml:2:1: a tab cannot indent YAML: use spaces"),
        ("a: *b", "f.yaml:1:4: not YAML: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2", "f.yaml:2:1: a second document: one file holds one"),
        ("a: 1\nb: \x00", "f.yaml:2:4: a character that YAML does not allow: U+0000"),
    ],
)
def test_what_is_no_yaml_is_placed(text: str, fault: str) -> None:
    assert faults(text)[0].startswith(fault)


@pytest.mark.parametrize("tag", ["!!python/object/apply:os.system", "!!str", "!mine", "!!binary", "!!set"])
def test_tags_are_refused_and_nothing_is_built(tag: str) -> None:
    assert faults(f"ok: 1\na: {tag} [x]") == [
        f"f.yaml:2:4: tag '{tag}' is not allowed: a configuration is plain data"
    ]


def test_a_yaml_bomb_is_refused() -> None:
    lines = ["a: &a [x,x,x,x,x,x,x,x,x]"]
    for last, name in pairwise("abcdefghi"):
        lines.append(f"{name}: &{name} [{','.join([f'*{last}'] * 9)}]")
    assert "aliases expand to over 100,000 values" in faults("\n".join(lines))[0]


def test_too_many_aliases_are_refused() -> None:
    assert "200 aliases" in faults("a: &a x\nb: [" + "*a, " * 300 + "]")[0]


def test_an_alias_to_itself_is_refused() -> None:
    assert faults("a: &a [*a]") == ["f.yaml:1:4: a: nested deeper than 32 levels"]


@pytest.mark.parametrize("text", ["[" * 5000, "{" * 5000, "- " * 5000, "? " * 5000])
def test_deep_nesting_is_refused(text: str) -> None:
    assert faults(text)[0].endswith(f"nested deeper than {MAX_DEPTH} levels")


def test_an_alias_is_read_where_it_is_harmless() -> None:
    assert parse_yaml("a: &x [1, 2]\nb: *x", "f.yaml").data == {"a": [1, 2], "b": [1, 2]}


def test_a_file_that_is_not_utf8_is_refused_with_the_place(tmp_path: Path) -> None:
    path = tmp_path / "latin.yaml"
    path.write_bytes("ok: 1\nname: café\n".encode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}:2:10: is not UTF-8: byte 0xe9; save the file as UTF-8"


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes("\ufeffname: x\r\n".encode())
    assert read_yaml(path).data == {"name": "x"}


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"# " + b"x" * MAX_BYTES)
    with pytest.raises(ConfigError, match="larger than 4 MiB"):
        read_yaml(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(ConfigError, match="cannot be read"):
            read_yaml(path)


def test_a_text_without_places_gives_faults_without_places() -> None:
    document = parse_yaml("{a: 1, a: 2}", "--set x", has_places=False)
    assert [str(problem) for problem in document.problems] == ["--set x: a: duplicate key"]
    with pytest.raises(ConfigError, match=r"^--set x: not YAML"):
        parse_yaml("[1,", "--set x", has_places=False)


_DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**17), 10**17) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@given(st.dictionaries(st.text(min_size=1, max_size=5), _DATA, max_size=4))
def test_data_written_as_yaml_is_read_back_equal(data: dict[str, Any]) -> None:
    written = dump_yaml(data)
    document = parse_yaml(written, "f.yaml")
    assert document.data == data
    assert not document.problems
    assert yaml.safe_load(written) == data


@pytest.mark.parametrize(
    "text", ["1e3", "007", "12:30", "off", "true", "2026-01-01", "", "~", ".inf", "<<", "0x1"]
)
def test_text_that_looks_like_something_else_is_quoted(text: str) -> None:
    assert parse_yaml(dump_yaml({"a": text}), "f.yaml").data == {"a": text}
    assert yaml.safe_load(dump_yaml({"a": text})) == {"a": text}


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_never_worse(text: str) -> None:
    with suppress(ConfigError):
        assert parse_yaml(text, "f.yaml").source == "f.yaml"
