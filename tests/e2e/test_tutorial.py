"""The commands of docs/tutorial.md as they stand there, with a reviewer of a few lines in place of the browser."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pycocotools.coco import COCO
from starlette.testclient import TestClient

from l2l_ray import cli
from l2l_ray.review.app import make_app
from l2l_ray.serving.access import sha256_of
from tests.e2e.test_docs_commands import commands

HOST, TOKEN = "127.0.0.1:8765", "0123456789abcdef"
QUICK = ["--preset", "smoke"]  # a minute instead of several; the page's command is the same without it


def _review(run: Path) -> dict[int, str]:
    """Accept the first two labels that mark something and reject the third; return what was decided, by sentence."""
    app = make_app(run, "anna", sha256_of(TOKEN), frozenset({f"http://{HOST}"}))
    with TestClient(app, base_url=f"http://{HOST}", headers={"authorization": f"Bearer {TOKEN}"}) as client:
        rows = client.get("/api/labels").json()["rows"]
        found = (client.get(f"/api/labels/{row['sent_id']}").json() for row in rows)
        marked = [label["sent_id"] for label in found if len(label["masks"]["label"]["counts"]) > 1]
        decided = dict(zip(marked, ("accept", "accept", "reject"), strict=False))
        for sent_id, action in decided.items():
            body = {"action": action, "upon": 0, "key": f"{sent_id} {action}"}
            assert client.post(f"/api/labels/{sent_id}/actions", json=body).status_code == 200
    return decided


@pytest.mark.slow  # two whole runs, 40 s
@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of pycocotools
def test_from_a_folder_of_photos_to_masks_that_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("L2L_HOME", str(tmp_path / "runs"))
    run, decided = tmp_path / "runs" / "photos", dict[int, str]()
    done = []
    for words in commands("tutorial.md"):
        given = [{"RUN": str(run), "RUN-2": f"{run}-2", "DATA": str(run.parent / "data")}.get(w, w) for w in words]
        if words[0] == "review":
            decided = _review(run)
        else:
            status = cli.main([*given, *(QUICK if words[0] == "label" else [])])
            assert status == 0, (words, capsys.readouterr())
        done.append(words[0])
    assert done == ["example", "label", "suggest", "review", "data", "export", "data", "label", "runs", "compare"]
    accepted = [sent_id for sent_id, action in decided.items() if action == "accept"]
    coco = COCO(str(tmp_path / "checked" / "shapes" / "instances.json"))
    assert len(coco.getAnnIds()) == len(accepted) > 0
    assert coco.annToMask(coco.loadAnns(coco.getAnnIds())[0]).any()
    exported = {one["sent_id"]: one for one in COCO(str(tmp_path / "labels" / "annotations.json")).anns.values()}
    assert not {sent_id for sent_id, action in decided.items() if action == "reject"} & exported.keys()
    assert {sent_id for sent_id, one in exported.items() if "accepted_by" in one["provenance"]} == set(accepted)
    index = [json.loads(line) for line in (run / "masks" / "index.jsonl").read_text().splitlines()]
    assert len(index) == 28
    assert (tmp_path / "runs" / "photos-2" / "report.html").is_file(), "the second run learned from more"
