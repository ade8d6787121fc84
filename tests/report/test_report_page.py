import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from l2l_ray.config import RunConfig, save_config
from l2l_ray.errors import DataError
from l2l_ray.report.glossary import TERMS
from l2l_ray.report.page import render, write_report
from l2l_ray.report.record import read_run
from tests.report.conftest import summary


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


def test_the_page_needs_nothing_but_itself(reported: Path) -> None:
    run_dir, path = reported, reported / "report.html"
    html = path.read_text()
    reader = read(html)
    assert reader.sources and all(source.startswith("data:image/") for source in reader.sources)
    assert not reader.tags & {"script", "link", "iframe", "object"}
    assert "http://" not in html and "https://" not in html and "url(" not in html
    for source in reader.sources:
        kind, picture = source.removeprefix("data:image/").split(";base64,")
        if kind == "svg+xml":
            ElementTree.fromstring(base64.b64decode(picture))
        else:
            Image.open(io.BytesIO(base64.b64decode(picture))).verify()
    assert (run_dir / "metrics.parquet").exists() and (run_dir / "metrics.csv").exists()
    assert list((run_dir / "tensorboard" / "l2l").iterdir())
    assert not list(run_dir.glob(".*.tmp"))


def words(html: str) -> str:
    return " ".join(re.sub(r"<style>.*?</style>|<[^>]+>", " ", html, flags=re.DOTALL).split())


def test_what_it_shows(reported: Path) -> None:
    text = words((reported / "report.html").read_text())
    assert text.count("native image size, every sentence") == 1  # the protocol stands once, above every figure
    assert "L2L (RPLE)" in text and "53.4" in text and "Made-up figures" in text
    assert text.count("L2L (RPLE) reached a mean IoU of 53.4 % on val.") == 1
    assert text.index("reached a mean IoU") < text.index("Results"), "what came out stands on top"
    assert "abc1234" in text and "l2l run --preset smoke" in text and "dataset: refshapes" in text
    assert "3 texts : the photo cannot be read. 12.jpg." in text
    assert "The language model gave no usable box for 96 of 4500 texts" in text
    for title in ("What became of the labels", "Are the surest labels the right ones?", "Whose labels were used"):
        assert title in text
    assert "L2L (RPLE) 0 61.0 56.3 +4.7" in text  # the gate on unlabeled and on labeled photos


def test_the_first_figures_say_what_the_labels_are_worth(reported: Path) -> None:
    html = (reported / "report.html").read_text()
    shown = dict(re.findall(r"<div><b>(.*?)</b><span>(.*?)</span></div>", html))
    assert shown == {
        "53.4 %": "mean IoU, val, L2L (RPLE)",
        "56.4 %": "overall IoU, val, L2L (RPLE)",
        "61.0 %": "of the labels used for training: 2318 of 3800, last round",
        "63.5 %": "mean IoU of the used labels with the true masks",
        "18.5 %": "of the used labels on a wrong object",
    }


def test_one_seed_gives_no_verdict(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    results["differences"] = [
        {"method": "l2l", "versus": "accept_all", "split": "tests", "diff": 0.02, "low": 0.01, "high": 0.03}
    ]
    (run_dir / "results.json").write_text(json.dumps(results))
    text = render(read_run(run_dir))
    assert "+1.0 to +3.0" in text and "one seed; other seeds may differ" in text
    assert not re.search(r"\b(ahead|behind|better|significant)", re.sub(r"base64,[^\"]*", "", text))


@pytest.mark.usefixtures("undrawn")
def test_doubtful_labels_stand_on_top_with_the_command_that_shows_them(run_dir: Path) -> None:
    results = json.loads((run_dir / "results.json").read_text())
    (run_dir / "results.json").write_text(
        json.dumps({**results, "doubt": {"num": 3800, "sure": 1200, "doubtful": 412}})
    )
    text = words(render(read_run(run_dir)))
    top = text[: text.index("Results")]
    assert "412 of 3,800 labels of the last round are doubtful" in top and f"l2l review {run_dir}" in top


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
    assert ["failure" in title for title in titles] == [True, False, False]
    assert "IoU 21.0 %, confidence 50.0 %" in titles[0]


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


def test_an_empty_folder_gives_a_short_page_that_names_what_is_absent(tmp_path: Path) -> None:
    html = write_report(tmp_path).read_text()
    read(html)
    text = words(html)
    assert "There are no figures yet." in text and "results.json is absent" in text
    assert "Absent:" not in text and "<img" not in html and "What to do next" not in text


def as_own_data(run_dir: Path, **changes: Any) -> str:
    """Return the page of the run as if it were one on somebody's own photos, without val."""
    (run_dir / "config.yaml").write_text("data: {root: my data, dataset: own}\nselector: {name: l2l}\n")
    found = json.loads((run_dir / "results.json").read_text())
    rows = [{**row, "splits": {}} for row in found["rows"]]
    found |= {"rows": rows, "hidden_truth": None, "dataset": "own", "missing_splits": ["val"], **changes}
    (run_dir / "results.json").write_text(json.dumps(found))
    lines = [line for line in (run_dir / "metrics.jsonl").read_text().splitlines() if '"evaluation"' not in line]
    (run_dir / "metrics.jsonl").write_text("\n".join(lines))
    (run_dir / "selection.json").write_text('{"method": "l2l", "version": 4}')
    index = run_dir / "panels" / "index.json"
    if "val_source" not in changes:
        index.write_text(json.dumps([e for e in json.loads(index.read_text()) if e["split"] == "unlabeled"]))
    html = render(read_run(run_dir))
    read(html)
    return html


@pytest.mark.usefixtures("undrawn")
def test_own_data_without_val_shows_its_photos_and_no_empty_boxes(run_dir: Path) -> None:
    sets = {"labeled": {"images": 12, "texts": 12}, "unlabeled": {"images": 48, "texts": 49}}
    html = as_own_data(run_dir, sets=sets, notices=["there is no val split: nothing is held out"])
    text = words(html)
    assert "It learned from 12 photos (12 texts) with true masks and labeled 48 photos (49 texts) without." in text
    assert "How good the masks are was not measured" in text and "--data.val_from_labeled" in text
    assert "There is no val split: nothing is held out." in text
    assert not re.search(r"Absent:|IoU unknown|truth: none|Protocol|no figures", text)
    titles = re.findall(r"<h4>(.*?)</h4>", html)
    assert ["scene-4" in titles[0], "scene-3" in titles[1], "scene-5" in titles[2]] == [True] * 3
    assert "confidence 80.0 %" in titles[0] and "turned it down" in titles[1]
    assert "true mask</figcaption>" not in html and "<h2>Examples" not in html


@pytest.mark.usefixtures("undrawn")
def test_a_box_that_a_person_gave_is_not_called_the_language_models(run_dir: Path) -> None:
    index = run_dir / "panels" / "index.json"
    entries = json.loads(index.read_text())
    entries[-1]["prior_source"] = "user"
    index.write_text(json.dumps(entries))
    captions = re.findall(r"<figcaption>([^<]*box[^<]*)</figcaption>", as_own_data(run_dir))
    assert captions.count("box given by a person") == 1 and captions.count("language model&#39;s box") == 2


@pytest.mark.usefixtures("undrawn")
def test_own_data_says_what_to_do_next_with_its_own_folders(run_dir: Path) -> None:
    commands = re.findall(r"<pre>(l2l .*?)</pre>", as_own_data(run_dir))
    assert [command.split()[1] for command in commands] == ["review", "data", "run", "export", "predict"]
    assert all(str(run_dir) in command for command in commands)
    assert "--root &#39;my data&#39; --dataset own --update" in commands[1]


@pytest.mark.usefixtures("undrawn")
def test_held_out_photos_are_named_as_a_rough_estimate(run_dir: Path) -> None:
    interval = {"mean_iou": {"low": 0.402, "high": 0.771}}
    row = {"method": "l2l", "label": "L2L", "splits": {"val": {**summary(0.61, 7), "interval": interval}}}
    sets = {"val": {"images": 3, "texts": 7}}
    text = words(as_own_data(run_dir, rows=[row], val_source="labeled", sets=sets))
    assert (
        "Quality estimate from 3 photos (7 texts) held out of training, which also chose the version; with so few it "
        "is rough: mean IoU 61.0 %, 95 % interval 40.2 to 77.1 %." in text
    )
    assert "version chosen on the held-out photos" in text and "Splits absent" not in text
    assert "mean IoU, held-out photos, L2L" in text


@pytest.mark.usefixtures("undrawn")
def test_one_held_out_photo_has_no_interval(run_dir: Path) -> None:
    interval = {"mean_iou": {"low": None, "high": None}}
    row = {"method": "l2l", "label": "L2L", "splits": {"val": {**summary(0.168, 1), "interval": interval}}}
    text = words(as_own_data(run_dir, rows=[row], val_source="labeled", sets={"val": {"images": 1, "texts": 1}}))
    assert "1 photo (1 text) with true masks was held out" in text
    assert "mean IoU 16.8 %, too few photos for an interval." in text and "16.8 to 16.8" not in text


@pytest.mark.parametrize(("root", "said"), [("my data", True), ("embedded", False)])
@pytest.mark.usefixtures("undrawn")
def test_models_of_drawn_shapes_on_photos_are_named_at_the_top(run_dir: Path, root: str, said: bool) -> None:
    config = RunConfig.model_validate({"data": {"root": root, "dataset": "own", "split_by": "own"} if said else {}})
    save_config(config, run_dir / "config.yaml")
    assert ("tiny models made for drawn shapes. On other pictures" in words(render(read_run(run_dir)))) == said


@pytest.mark.usefixtures("undrawn")
def test_the_glossary_holds_the_words_of_the_page_and_no_others(run_dir: Path) -> None:
    html = render(read_run(run_dir))
    body, _, glossary = html.partition("Words on this page")
    names = re.findall(r"<dt>(.*?)</dt>", glossary)
    assert {"mean IoU", "teacher", "gate", "round", "version", "confidence", "hidden truth"} <= set(names)
    assert not {"ref", "referent", "SemiRES", "student"} & set(names)
    text = words(body)
    for term in (term for term in TERMS if term.name in names):
        assert term.occurs_in(text), term.name
    assert not re.search(r"\b(oIoU|mIoU|P@0\.5|burn-in|as chosen|own confidence|cross-fitted)\b", text)


@pytest.mark.parametrize("name", ["report.html", "tensorboard"])
def test_what_cannot_be_written_is_an_error_of_our_own(tmp_path: Path, name: str) -> None:
    path = tmp_path / "my run" / name
    path.parent.mkdir()
    path.mkdir() if name == "report.html" else path.write_text("")
    with pytest.raises(DataError, match=r"cannot write the report's files in .*`l2l report '\S*/my run'`"):
        write_report(path.parent)


def test_no_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no run folder"):
        write_report(tmp_path / "nowhere")
