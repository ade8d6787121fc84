"""Every `l2l` command of docs/data.md and docs/export.md, as it stands there, in a folder that holds what it names."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from l2l_ray import cli
from l2l_ray.loop.state.run_folder import RunFolder
from tests.datatools import test_import_hub as hub
from tests.refer_folder import TRIANGLE, draw

DOCS = Path(__file__).parents[2] / "docs"
NUM_PHOTOS = 6


def commands(page: str) -> list[list[str]]:
    """Return the words of each command in the page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("l2l ")]


def _mask(size: tuple[int, int] = (24, 32)) -> np.ndarray:
    mask = np.zeros(size, bool)
    mask[4:14, 6:20] = True
    return mask


def _write_photos(place: Path) -> None:
    rows = ["image,expression,mask"]
    for number in range(NUM_PHOTOS):
        draw(place / "photos" / f"{number}.jpg", number)
        (place / "photos" / f"{number}.txt").write_text(f"cat {number}\n")
        Image.fromarray(_mask()).save(place / "photos" / f"{number}_mask.png")
        rows.append(f"{number}.jpg,cat {number},{number}_mask.png" if number < 4 else f"{number}.jpg,cat {number},")
    (place / "own.csv").write_text("\n".join(rows) + "\n")
    draw(place / "photos" / "val" / "copy.png", 0)  # looks like a photo of train, saved anew
    (place / "photos" / "val" / "copy.txt").write_text("cat\n")
    more = {"image": "4.jpg", "expression": "cat 4", "polygon": TRIANGLE[0]}
    (place / "more.jsonl").write_text(json.dumps(more) + "\n")


def _write_published(place: Path) -> None:
    for number in (1, 2):
        draw(place / "coco" / "train2014" / hub.NAME.format(100 + number), number)
    hub.write(place / "refcoco.parquet", hub.JXU124, hub.jxu124_row(1), hub.jxu124_row(2, "testA"))
    hub.write(place / "val-00000.parquet", hub.LMMS, hub.lmms_row(1, place))
    annotations = [
        {"id": 5 + n, "image_id": n, "category_id": 1, "bbox": [2, 2, 18, 12], "area": 108, "iscrowd": 0,
         "segmentation": TRIANGLE, "expression": f"cat {n}"}
        for n in (1, 2)
    ]  # fmt: skip
    images = [{"id": n, "file_name": f"{n}.jpg", "width": 32, "height": 24} for n in (1, 2)]
    tables = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "cat"}]}
    (place / "instances.json").write_text(json.dumps(tables))
    sentences = [{"raw": "cats", "sent": "cats", "sent_id": 1, "tokens": ["cats"]}]
    gref = {"ref_id": 1, "ann_id": [6], "image_id": 1, "split": "train", "file_name": "1.jpg", "sent_ids": [1],
            "category_id": [1], "no_target": False, "sentences": sentences}  # fmt: skip
    (place / "grefs(unc).json").write_text(json.dumps([gref]))
    for number in (1, 2):
        draw(place / "coco" / "train2014" / f"{number}.jpg", number)


def _write_project(tasks: Path, to: Path) -> None:
    """Accept every prediction of an export's tasks, as a person may in Label Studio."""
    accepted = []
    for number, task in enumerate(json.loads(tasks.read_text())):
        result = task.pop("predictions")[0]["result"]
        accepted.append({**task, "id": number, "annotations": [{"id": number, "result": result}]})
    to.write_text(json.dumps(accepted))


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, on NumPy 2
def test_the_commands_of_data_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _write_photos(tmp_path)
    _write_published(tmp_path)
    monkeypatch.chdir(tmp_path)
    from l2l_ray.datatools.label_studio import task

    item = task(
        _mask(),
        {
            "image": "1.jpg",
            "expression": "cat 1",
            "sent_id": 7,
            "confidence": 0.5,
            "split": "train",
            "provenance": {"run": "x"},
        },
    )
    (tmp_path / "tasks.json").write_text(json.dumps([item]))
    _write_project(tmp_path / "tasks.json", tmp_path / "project.json")
    found = commands("data.md")
    assert len(found) > 10
    for words in found:
        status = cli.main(["1" if word == "0.01" else word for word in words])  # one photo stands for RefCOCO here
        printed = capsys.readouterr()
        assert status == (1 if words[1] == "leaks" else 0), (words, printed)
    assert "copy" not in printed.err and "without 1 train image\n" in printed.out, printed


def test_the_commands_of_labels_out(
    whole_run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    found = commands("export.md")
    assert len(found) > 3
    out = Path()
    for words in found:
        if words[0] == "export" and "--guarantee" not in words:
            out = tmp_path / words[words.index("--out") + 1]
        elif words[0] == "data":
            _write_project(out / "tasks.json", tmp_path / "project.json")
        image_root = json.loads((out / "export.json").read_text())["image_root"] if words[0] == "data" else ""
        given = [{"RUN": str(whole_run.path), "IMAGE_ROOT": image_root}.get(word, word) for word in words]
        if "--guarantee" in given:  # of a few labeled images no such promise can be given
            assert cli.main(given) == 1
            assert "cannot be given: by" in capsys.readouterr().err
        else:
            assert cli.main(given) == 0, (words, capsys.readouterr())
