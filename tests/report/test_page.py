"""The page of a run."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from sim.cost.hardware import Figure, Source
from sim.metrics.basis import Basis, Part
from sim.metrics.summary import Identity
from sim.report.page import run_page, write_page
from tests.command_line import EXPERIMENT, pagecast
from tests.report.test_tables import summary_of

_ALONE = {"meta", "img"}


class _Reader(HTMLParser):
    """Collects images and text, and refuses tags that are not closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in _ALONE:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(page: str) -> _Reader:
    reader = _Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


def test_the_page_says_what_the_terminal_says() -> None:
    basis = Basis(
        (Figure("memory", "80 GiB", Source.DATASHEET),),
        (Part("gemm", 0.123, 0.164, "nine of ten of 4,704 measured times"),),
        {"median_ttft_ms": (17.8, 20.4, 24.4)},
    )
    read_back = read(run_page(replace(summary_of(), basis=basis), ["plots/latency.svg"]))
    assert read_back.images == ["plots/latency.svg"]
    for words in ("TTFT (ms)", "-12.3 %", "+16.4 %", "17.80", "datasheet", "memory 80 GiB"):
        assert words in read_back.text


def test_names_cannot_break_the_page() -> None:
    summary = replace(summary_of(), identity=Identity("toy {0} <b>", "./a<script>.yaml", 7))
    read_back = read(run_page(summary, []))
    assert "toy {0} <b>" in read_back.text
    assert "./a<script>.yaml" in read_back.text


def test_it_lies_in_the_run_s_folder_beside_its_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (tmp_path / "tiny.yaml").write_text(EXPERIMENT)
    pagecast("simulate", str(tmp_path / "tiny.yaml"), "--out", str(folder))
    images = read((folder / "report.html").read_text()).images
    assert images == ["plots/latency.svg", "plots/timeline.svg", "plots/throughput.svg"]
    assert all((folder / name).is_file() for name in images)
    assert write_page(tmp_path, summary_of(), []) == tmp_path / "report.html"
