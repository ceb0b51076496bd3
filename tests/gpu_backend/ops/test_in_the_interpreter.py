"""Runs the kernel tests of this folder in Triton's interpreter, which is chosen before Triton is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the engine needs torch")
pytest.importorskip("triton", reason="Triton is not installed")

FOLDER = Path(__file__).parent
FILES = ["test_paged_attention.py", "test_blocks.py", "test_tokens.py", "test_sampling.py"]
REPO = FOLDER.parents[2]


@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this is the interpreter's own process")
@pytest.mark.parametrize("file", FILES)
def test_kernels_are_right_in_the_interpreter(file: str) -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    arguments = ["-q", "-p", "no:cacheprovider", "-m", "not gpu", "-k", "interpreter"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments, str(FOLDER / file)],
        cwd=REPO,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
