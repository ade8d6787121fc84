"""`jobs/label.py` on Ray: the same files as `l2l predict`, whatever dies; the same command goes on."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image, ImageDraw

from jobs.label import main as label
from l2l_ray.actors import predicting
from l2l_ray.actors.predicting import predict
from l2l_ray.cli import main as l2l
from l2l_ray.config import ClusterConfig
from l2l_ray.datatools.photos import photos_and_texts
from l2l_ray.errors import ClusterError
from l2l_ray.loop.state import visibility
from l2l_ray.predictions import PredictionFolder
from l2l_ray.types import PhotoText
from tests.ray_runs import held, wait_for


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Give 11 photos with texts, so two parts, and one that is no photo."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(11):
        photo = Image.new("RGB", (64 + number, 48), (230, 230, 230))
        ImageDraw.Draw(photo).ellipse((4 * number, 8, 4 * number + 16, 24), fill=(220, 30, 30))
        photo.save(folder / f"{number:02}.png")
        (folder / f"{number:02}.txt").write_text("the red circle\n")
    (folder / "03.txt").write_text(f"the red {'circleoid-' * 12}circle\n")  # more tokens than the segmenter reads
    (folder / "07.png").write_bytes(b"no photo")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_the_files_are_those_of_one_process_and_a_second_call_asks_nothing(
    ray_local: str,
    run_dir: Path,
    photos: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    many, one = tmp_path / "many", tmp_path / "one"
    words = [str(photos), "--run", str(run_dir), "--out", str(many)]
    assert label([*words, "--dry-run"]) == 0
    assert capfd.readouterr().out == f"11 to answer with l2l version 2 of {run_dir}\n"
    assert not many.exists()
    caplog.clear()
    assert label(words) == 1
    said = capfd.readouterr()
    assert "10 of 11 answered" in said.out and "07.png" in said.err
    noted = sorted(record.getMessage() for record in caplog.records)
    assert (
        noted[0].startswith("note: the segmenter reads the first ") and "this run learned from drawn shapes" in noted[1]
    )
    caplog.clear()
    assert l2l(["predict", str(photos), "--run", str(run_dir), "--out", str(one)]) == 1
    assert noted == sorted(record.getMessage() for record in caplog.records), "nothing is lost in an actor's log"
    assert files(many) == files(one)

    (photos / "07.png").write_bytes((photos / "08.png").read_bytes())
    assert label([*words, "--cluster.num_labelers", "1"]) == 0
    assert "10 of 11 are answered already" in capfd.readouterr().out
    names = [json.loads(line)["image"] for line in (many / "predictions.jsonl").read_text().splitlines()]
    assert names == [str(path) for path in sorted(photos.glob("*.png"))]


def test_it_waits_in_line_for_its_labelers(
    ray_local: str, run_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [item for item in photos_and_texts(photos) if isinstance(item, PhotoText)][:1]
    gc.collect()  # actors of earlier tests leave with their handles; those of failed ones may stay
    free = ray.available_resources()["CPU"]
    told, say = held("trial-0", {"CPU": free})
    monkeypatch.setattr(predicting, "say", say)
    folder = PredictionFolder.open(tmp_path / "out", str(run_dir), "aa")
    predict(run_dir, items, folder, ClusterConfig(address=ray_local), lambda row, num_done: None)
    assert told[0].startswith("waiting for 0.25 CPU (0 free); held by ") and "trial-0 of l2l-other-1a2b" in told[0]


def test_masks_that_are_not_in_the_folder_here_are_not_noted(
    ray_local: str, run_dir: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(visibility, "SEEN_TIMEOUT_S", 0.5)
    items = [item for item in photos_and_texts(photos) if isinstance(item, PhotoText)]
    folder = PredictionFolder.open(tmp_path / "out", str(run_dir), "aa")

    def noted(row: dict[str, Any], num_done: int) -> None:
        # The other part's files vanish before it is noted, as where its node wrote them on a disk of its own.
        if num_done == 1:
            wait_for(lambda: len(list(folder.path.glob("*.json"))) == 10, "the files of both parts")
            for mask in folder.path.glob("*-mask.png"):
                mask.unlink()

    with pytest.raises(ClusterError, match=r"-mask\.png, which is not in .*out here; expected a folder that all nodes"):
        predict(run_dir, items, folder, ClusterConfig(address=ray_local), noted)
    assert len(folder.index_path.read_text().splitlines()) in (3, 8), "one part alone"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--loop.rounds", "2"], "unknown option --loop.rounds; expected those of --help, or --cluster.FIELD"),
        (["--cluster.num_labelers", "0"], "cluster.num_labelers"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_before_anything_starts(
    run_dir: Path, photos: Path, tmp_path: Path, words: list[str], said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert label([str(photos), "--run", str(run_dir), "--out", str(tmp_path / "out"), *words]) == 1
    error = capfd.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["run", "out", "images"])
def test_a_relative_folder_of_a_submitted_job_is_refused_by_name(
    run_dir: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    places = {"run": str(run_dir), "out": str(tmp_path / "out"), "images": str(photos), name: "mine"}
    assert label([str(photos), *(word for key, place in places.items() for word in (f"--{key}", place))]) == 1
    assert capfd.readouterr().err.startswith(f"label: {name} is relative, got 'mine', and a submitted job does not run")
