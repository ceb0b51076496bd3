"""What `environment.json` says about code, machine and inputs."""

from __future__ import annotations

import hashlib
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from sim.environment import Facts, collect_environment, git_state, peak_memory_bytes


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_everything_a_stranger_needs_to_repeat_the_run_is_there(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("name: x\n")
    started = datetime(2026, 1, 2, tzinfo=UTC)
    facts = Facts(7, ["pagecast", "simulate", "x.yaml"], [config, tmp_path / "gone.csv"], started, 1.5)
    environment = collect_environment(facts)
    assert environment["seed"] == 7
    assert environment["command_line"] == ["pagecast", "simulate", "x.yaml"]
    assert environment["inputs"][str(config)] == hashlib.sha256(b"name: x\n").hexdigest()
    assert environment["inputs"][str(tmp_path / "gone.csv")] is None
    assert environment["packages"]["numpy"]
    assert environment["simulation_cpu_s"] == 1.5
    assert environment["started"] == "2026-01-02T00:00:00.000+00:00"
    assert environment["wall_s"] > 0
    assert json.loads(json.dumps(environment)) == environment


def test_memory_is_told_in_bytes() -> None:
    assert 10_000_000 < peak_memory_bytes() < 1 << 40


def test_the_commit_is_told_and_whether_the_code_was_changed_since(tmp_path: Path) -> None:
    (tmp_path / "sim").mkdir()
    code = tmp_path / "sim" / "__init__.py"
    code.write_text("")
    assert git_state(tmp_path / "sim") is None
    git(tmp_path, "init")
    assert git_state(tmp_path / "sim") is None
    git(tmp_path, "add", "sim")
    git(tmp_path, "commit", "-m", "first")
    state = git_state(tmp_path / "sim")
    assert state is not None
    assert (len(state["commit"]), state["dirty"]) == (40, False)
    (tmp_path / "sim" / "notes.txt").write_text("not tracked, so not part of the code")
    assert git_state(tmp_path / "sim") == state
    code.write_text("changed = True\n")
    assert git_state(tmp_path / "sim") == state | {"dirty": True}


def test_a_package_installed_inside_somebody_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("venv/\n")
    git(tmp_path, "add", ".gitignore")
    git(tmp_path, "commit", "-m", "first")
    (tmp_path / "venv").mkdir()
    (tmp_path / "venv" / "__init__.py").write_text("")
    assert git_state(tmp_path / "venv") is None
