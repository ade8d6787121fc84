import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from l2l_ray.errors import DataError
from l2l_ray.report.page import render, write_report
from l2l_ray.report.record import read_run


class Reader(HTMLParser):
    """Collects what a page would load, and checks that its elements close."""

    void = {"meta", "img", "source", "br", "link"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "srcset", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


@pytest.fixture(scope="module")
def reported(built_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose report was written, once for all tests: drawing takes seconds."""
    folder = Path(shutil.copytree(built_run, tmp_path_factory.mktemp("reported") / built_run.name))
    assert write_report(folder) == folder / "report.html"
    return folder


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out; it is tested elsewhere."""
    monkeypatch.setattr("l2l_ray.report.plots._bytes", lambda figure: b"png")  # why: drawing takes seconds


def test_the_page_needs_nothing_but_itself(reported: Path) -> None:
    run_dir, path = reported, reported / "report.html"
    html = path.read_text()
    reader = read(html)
    assert reader.sources and all(source.startswith("data:image/") for source in reader.sources)
    assert not reader.tags & {"script", "link", "iframe", "object"}
    assert "http://" not in html and "https://" not in html and "url(" not in html
    for source in reader.sources:
        Image.open(io.BytesIO(base64.b64decode(source.split(",", 1)[1]))).verify()
    assert (run_dir / "metrics.parquet").exists() and (run_dir / "metrics.csv").exists()
    assert list((run_dir / "tensorboard" / "l2l").iterdir())
    assert not list(run_dir.glob(".*.tmp"))


def test_what_it_shows(reported: Path) -> None:
    text = re.sub(r"<[^>]+>", " ", (reported / "report.html").read_text())
    assert text.count("native image size, every sentence") >= 5  # the protocol goes with every table
    assert "L2L (RPLE)" in text and "53.4" in text and "Made-up figures" in text
    assert "abc1234" in text and "l2l run --preset smoke" in text and "dataset: refshapes" in text
    assert "truncated_image" in text


def test_the_first_figures_say_what_the_labels_are_worth(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    shown = dict(re.findall(r"<div><b>(.*?)</b><span>(.*?)</span></div>", html))
    assert shown == {
        "53.4 %": "mean IoU, val, L2L (RPLE)",
        "56.4 %": "overall IoU, val, L2L (RPLE)",
        "61.0 %": "of the pseudo-labels used: 2318 of 3800, last round",
        "63.5 %": "mean IoU of the used pseudo-labels with the true masks",
        "18.5 %": "of the used pseudo-labels on a wrong object",
    }


def test_one_seed_gives_no_verdict(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    results["differences"] = [
        {"method": "l2l", "versus": "accept_all", "split": "all", "diff": 0.02, "low": 0.01, "high": 0.03}
    ]
    (run_dir / "results.json").write_text(json.dumps(results))
    text = render(read_run(run_dir))
    assert "+1.0 to +3.0" in text and "one seed; other seeds may differ" in text
    assert not re.search(r"\b(ahead|behind|better|significant)", re.sub(r"base64,[^\"]*", "", text))


@pytest.mark.usefixtures("undrawn")
def test_expressions_are_data_not_markup(run_dir: Path) -> None:
    index = run_dir / "panels" / "index.json"
    entries = json.loads(index.read_text())
    entries[0]["expression"] = "<script>alert(1)</script>"
    index.write_text(json.dumps(entries))
    html = render(read_run(run_dir))
    assert "<script>" not in html and "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<b>not bold</b>" not in html
    read(html)


def test_failures_come_first_and_are_labeled(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    titles = re.findall(r'<article class="example">\s*<h3>(.*?)</h3>', html, re.S)
    assert len(titles) == 4
    assert ["failure" in title for title in titles] == [True, False, False, False]
    assert "IoU 21.0 %" in titles[0] and "IoU unknown" in titles[3]


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(
    "name", ["config.yaml", "env.json", "results.json", "metrics.jsonl", "selection.json", "skips.jsonl", "panels"]
)
def test_whatever_is_missing_is_named_not_fatal(name: str, run_dir: Path) -> None:
    path = run_dir / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    html = render(read_run(run_dir))
    assert ("panels/index.json is absent" if name == "panels" else f"{name} is absent") in html
    read(html)


def test_an_empty_folder_gives_a_page_of_absences(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text()
    read(html)
    assert html.count('class="absent"') >= 12


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path / "nowhere")
