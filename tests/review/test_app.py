"""What a browser may ask, and what is refused: no token, another host, another site, too much, or nonsense."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from starlette.testclient import TestClient

from l2l_ray import cli
from l2l_ray.data.masks import decode, encode, run_lengths
from l2l_ray.data.refer import ReferDataset
from l2l_ray.errors import DataError
from l2l_ray.loop.state.ledger import read_shard, write_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.review.app import MAX_BODY_BYTES, PAGE, PAGE_FILES, make_app, work_of
from l2l_ray.review.item import Items
from l2l_ray.review.journal import FILE, Journal
from l2l_ray.review.labels import Labels
from l2l_ray.review.proposals import Proposals
from l2l_ray.serving.access import sha256_of

TOKEN = "0123456789abcdef"
BEARER = {"authorization": f"Bearer {TOKEN}"}
HOST = "127.0.0.1:8765"
HOSTILE = '<img src=x onerror="document.title=1"> ../../etc/passwd \u202e"quoted" & <script>alert(1)</script>'


def client_of(run: Path, who: str | None = "anna", **headers: str) -> TestClient:
    app = make_app(run, who, sha256_of(TOKEN), frozenset({f"http://{HOST}"}))
    return TestClient(app, base_url=f"http://{HOST}", headers={**BEARER, **headers}, raise_server_exceptions=False)


@pytest.fixture
def client(reviewed_run: Path) -> Iterator[TestClient]:
    with client_of(reviewed_run) as client:
        yield client


def first_ids(client: TestClient, num: int = 5) -> list[int]:
    """Return the first labels that mark something."""
    rows = client.get("/api/labels").json()["rows"]
    found = (client.get(f"/api/labels/{row['sent_id']}").json() for row in rows)
    return [label["sent_id"] for label in found if len(label["masks"]["label"]["counts"]) > 1][:num]


def decided(client: TestClient, sent_id: int, action: str, upon: int = 0, **more: Any) -> Any:
    body = {"action": action, "upon": upon, "key": f"{sent_id}-{action}-{upon}-{len(more)}", **more}
    return client.post(f"/api/labels/{sent_id}/actions", json=body)


def test_a_label_is_found_looked_at_and_decided(client: TestClient, reviewed_run: Path) -> None:
    run = client.get("/api/run").json()
    assert (run["run"], run["reviewer"], run["counts"]["open"]) == (reviewed_run.name, "anna", run["num"])
    first, second, third, fourth, fifth = first_ids(client)
    shown = client.get(f"/api/labels/{first}").json()
    picture = client.get(f"/api/labels/{first}/picture")
    with Image.open(io.BytesIO(picture.content)) as opened:
        assert [opened.height, opened.width] == shown["size"] and picture.headers["content-type"] == "image/jpeg"
    answer = decided(client, first, "accept").json()
    assert (answer["saved"], answer["state"], answer["counts"]["accepted"]) == (1, "accepted", 1)
    mask = np.zeros(shown["size"], bool)
    mask[2:9, 3:11] = True
    answer = decided(client, second, "redraw", counts=run_lengths(encode(mask)).tolist()).json()
    assert answer["state"] == "redrawn" and 0 <= answer["iou"] <= 1
    for sent_id, action in ((third, "reject"), (fourth, "wrong_object"), (fifth, "no_object")):
        assert decided(client, sent_id, action).status_code == 200
    assert decided(client, third, "undo", upon=3).json()["state"] == "open"
    assert client.get(f"/api/labels/{second}").json()["masks"]["now"]["counts"] == run_lengths(encode(mask)).tolist()
    assert [row["sent_id"] for row in client.get("/api/labels", params={"state": "redrawn"}).json()["rows"]] == [second]
    assert client.get("/api/kinds").json()[0][1] >= 1
    made = {action.sent_id: action for action in Journal(reviewed_run).decisions()}
    assert made.keys() == {first, second, fourth, fifth}
    assert made[first].rle == Items(Labels(reviewed_run)).record(first)[1] and made[second].rle == encode(mask)
    assert made[fourth].rle is None and made[fourth].label["expression"]
    wrong = Items(Labels(reviewed_run)).record(fourth)[1]
    assert made[fourth].label["rle"] == wrong, "an update must know which mask is wrong"
    assert "rle" not in made[first].label, "of an accepted one the action has it"


def test_a_stale_decision_is_refused_with_what_the_other_one_did(client: TestClient, reviewed_run: Path) -> None:
    sent_id = first_ids(client)[0]
    with client_of(reviewed_run, "ben") as other:  # another server on the same run
        assert decided(other, sent_id, "reject").status_code == 200
    answer = decided(client, sent_id, "accept")
    assert answer.status_code == 409
    assert answer.json()["error"].startswith("not saved: ben said 'rejected' at ")
    assert answer.json()["last"]["number"] == 1
    assert client.get(f"/api/labels/{sent_id}").json()["state"] == "rejected"
    assert decided(client, sent_id, "accept", upon=1).json()["state"] == "accepted"


def test_a_disk_that_fails_is_not_the_decision_s_fault(client: TestClient, reviewed_run: Path) -> None:
    sent_id = first_ids(client, 1)[0]
    journal = reviewed_run / FILE
    journal.unlink(missing_ok=True)
    journal.mkdir()  # a file that cannot be read
    refused = decided(client, sent_id, "accept")
    assert refused.status_code == 500 and f"{FILE} cannot be read" in refused.json()["error"], "the browser keeps it"


def test_accept_is_refused_where_another_mask_is_shown(client: TestClient, reviewed_run: Path) -> None:
    sent_id = first_ids(client)[0]
    height, width = client.get(f"/api/labels/{sent_id}").json()["size"]
    assert decided(client, sent_id, "redraw", counts=[0, height, height * width - height]).status_code == 200
    for number, action in ((1, "redrawn"), (3, "no such object")):
        answer = decided(client, sent_id, "accept", upon=number)
        assert answer.status_code == 422
        assert f"the label is '{action}', and its own mask is not what is shown; undo that first" in answer.text
        assert decided(client, sent_id, "undo", upon=number).json()["standing"] == 0
        if number == 1:
            assert decided(client, sent_id, "no_object", upon=2).json()["standing"] == 3
            assert client.get(f"/api/labels/{sent_id}").json()["masks"]["now"]["counts"] == [height * width]
    accepted = decided(client, sent_id, "accept", upon=4)
    assert accepted.status_code == 200
    with client_of(reviewed_run, "ben") as other:
        assert decided(other, sent_id, "redraw", upon=5, counts=[0, height, height * width - height]).status_code == 200
    again = decided(client, sent_id, "accept", upon=4)
    assert again.status_code == 200 and again.json()["saved"] == 5, "what was saved is saved, whatever came after"


def test_who_waits_for_the_model_keeps_nobody_from_saving(
    client: TestClient, reviewed_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_asked, may_answer = threading.Event(), threading.Event()

    def slow(*asked: Any) -> None:
        is_asked.set()
        assert may_answer.wait(60)
        raise DataError("no model today; draw")

    for name in ("in_box", "own"):
        monkeypatch.setattr(Proposals, name, slow)
    sent_id = first_ids(client)[0]
    url, box = f"/api/labels/{sent_id}", {"box": [1, 1, 5, 5]}
    with ThreadPoolExecutor(100) as pool:
        waiting = [pool.submit(client.post, f"{url}/propose", json=box) for _ in range(40)]
        waiting += [pool.submit(client.get, f"{url}/teacher") for _ in range(50)]
        assert is_asked.wait(60)
        assert client.get("/api/labels").status_code == decided(client, sent_id, "accept").status_code == 200
        assert not any(answer.done() for answer in waiting)
        may_answer.set()
        assert {answer.result().status_code for answer in waiting} == {422}


def test_browsers_are_told_whose_work_on_which_run_it_is(client: TestClient, reviewed_run: Path) -> None:
    with client_of(reviewed_run, "ben") as other:
        ids = {one.get("/api/run").json()["id"] for one in (client, other)}
    labels = Labels(reviewed_run)
    assert ids == {work_of(reviewed_run, who, labels) for who in ("anna", "ben")} and len(ids) == 2


def test_a_decision_that_is_sent_again_is_saved_once(client: TestClient, reviewed_run: Path) -> None:
    sent_id = first_ids(client)[0]
    assert decided(client, sent_id, "accept").json() == decided(client, sent_id, "accept").json()
    assert len((reviewed_run / FILE).read_text().splitlines()) == 1


@pytest.mark.parametrize("path", ["/api/run", "/api/labels", "/api/labels/1", "/api/labels/1/picture", "/api/nothing"])
def test_nothing_is_told_without_the_token(client: TestClient, path: str) -> None:
    for headers in ({"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = client.get(path, headers=headers)
        assert answer.status_code == 401 and "asks for its token" in answer.json()["error"]
    assert client.get(path, params={"token": TOKEN}, headers={"authorization": ""}).status_code == 401


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8765", "127.0.0.1", "127.0.0.1:8766", "", "127.0.0.1:8765.x"]
)
def test_a_name_that_was_pointed_at_this_machine_is_refused(client: TestClient, host: str) -> None:
    """DNS rebinding: the browser believes that it talks to the stranger's own site."""
    for path in ("/", "/page.js", "/api/run"):
        answer = client.get(path, headers={"host": host})
        assert answer.status_code == 421 and f"this server is {HOST}" in answer.json()["error"]


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"https://{HOST}"},
        {"origin": "http://127.0.0.1:1"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_requests_from_other_sites_are_refused_even_with_the_token(
    client: TestClient, reviewed_run: Path, headers: dict[str, str]
) -> None:
    sent_id = first_ids(client)[0]
    body = {"action": "accept", "upon": 0, "key": "12345678"}
    answer = client.post(f"/api/labels/{sent_id}/actions", json=body, headers=headers)
    assert answer.status_code == 403 and "is refused" in answer.json()["error"]
    assert client.get("/api/run", headers=headers).status_code == 403
    assert not (reviewed_run / FILE).exists()
    own = {"origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
    assert client.post(f"/api/labels/{sent_id}/actions", json=body, headers=own).status_code == 200


def test_no_other_site_may_read_an_answer_or_frame_the_page(client: TestClient) -> None:
    assert client.options("/api/run", headers={"origin": f"http://{HOST}"}).status_code == 405
    for path in ("/", "/api/run"):
        headers = client.get(path).headers
        assert not [name for name in headers if name.startswith("access-control-")]
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["cross-origin-resource-policy"] == "same-origin" and headers["cache-control"] == "no-store"


def test_the_page_needs_no_token_and_holds_no_data_and_no_script_of_strangers(client: TestClient) -> None:
    for path, name in PAGE_FILES.items():
        answer = client.get(path, headers={"authorization": ""})
        assert answer.status_code == 200 and answer.content == (PAGE / name).read_bytes()
    assert {path.name for path in PAGE.iterdir()} == set(PAGE_FILES.values()), "every file of the page is served"
    for path in PAGE.iterdir():
        text = path.read_text()
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", text), path
        assert not re.search(r"https?://", text), f"{path}: nothing is fetched from anywhere else"
        assert not re.search(r"<script(?![^>]*src=)|\son\w+=|style=|javascript:", text), path


@pytest.mark.parametrize(
    ("body", "status", "why"),
    [
        (b"", 400, "must be a JSON object"),
        (b"{", 400, "must be a JSON object"),
        (b"[1]", 400, "got a list"),
        (b"[" * 100_000, 400, "must be a JSON object"),
        (b"\xff\xfe", 400, "must be a JSON object"),
        (b'{"action": "accept", "upon": 0}', 422, "key: Field required"),
        (b'{"action": "delete", "upon": 0, "key": "12345678"}', 422, "action: Input should be"),
        (b'{"action": "accept", "upon": -1, "key": "12345678"}', 422, "upon: "),
        (b'{"action": "accept", "upon": "0", "key": "12345678"}', 422, "upon: "),
        (b'{"action": "accept", "upon": 0, "key": "1"}', 422, "key: "),
        (b'{"action": "accept", "upon": 0, "key": "12345678", "reviewer": "ben"}', 422, "reviewer: Extra inputs"),
        (b'{"action": "accept", "upon": 0, "key": "12345678", "counts": [1]}', 422, "belongs to redraw"),
        (b'{"action": "redraw", "upon": 0, "key": "12345678"}', 422, "list of at most"),
        (b'{"action": "redraw", "upon": 0, "key": "12345678", "counts": [1, 2, 3]}', 422, "sum to"),
        (b'{"action": "redraw", "upon": 0, "key": "12345678", "counts": [NaN]}', 422, "counts"),
        (b'{"action": "undo", "upon": 0, "key": "12345678"}', 422, "nothing to undo"),
        (b" " * (MAX_BODY_BYTES + 1), 413, "expected at most 4 MB"),
    ],
)
def test_what_is_no_decision_is_refused_in_one_line(
    client: TestClient, reviewed_run: Path, body: bytes, status: int, why: str
) -> None:
    url = f"/api/labels/{first_ids(client)[0]}/actions"
    answer = client.post(url, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == status and why in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert not (reviewed_run / FILE).exists()


@pytest.mark.parametrize(("upon", "said"), [(1 << 63, "upon: "), (77, "not saved: you saw action 77")])
def test_an_action_upon_none_that_there_is_is_refused(client: TestClient, upon: int, said: str) -> None:
    url = f"/api/labels/{first_ids(client)[0]}/actions"
    answer = client.post(url, json={"action": "accept", "upon": upon, "key": "0123456789"})
    assert answer.status_code in (409, 422) and said in answer.json()["error"], answer.text
    assert client.get("/api/run").json()["problems"] == []


def test_a_body_without_a_stated_length_is_bounded_too_and_other_types_are_refused(client: TestClient) -> None:
    url = f"/api/labels/{first_ids(client)[0]}/actions"
    endless = (b" " * 1_000_000 for _ in range(6))
    answer = client.post(url, content=endless, headers={"content-type": "application/json"})
    assert answer.status_code == 413
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data"):  # what forms can send
        answer = client.post(url, content=b"{}", headers={"content-type": kind})
        assert answer.status_code == 415 and "application/json" in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/labels/999999999", 422),
        ("/api/labels/-1", 422),
        ("/api/labels/1e3", 422),
        ("/api/labels/..%2f..%2fconfig.yaml/picture", 404),
        ("/api/labels/99999999999999999999999/picture", 422),
        ("/..%2f..%2f..%2fetc/passwd", 404),
        ("/page/../../app.py", 404),
        ("/api/labels/1/picture?size=/etc/passwd", 422),
        ("/api/labels?count=100000", 422),
        ("/api/labels?order=sql", 422),
        ("/api/labels?state=gone", 422),
        ("/api/labels?start=-1", 422),
        ("/api/labels?lowest=NaN", 422),
        ("/api/labels?text=" + "x" * 300, 422),
        ("/api/labels?path=/etc/passwd", 422),
        ("/openapi.json", 404),
    ],
)
def test_no_path_comes_from_a_client_and_nonsense_is_refused(client: TestClient, path: str, status: int) -> None:
    answer = client.get(path)
    assert answer.status_code == status and set(answer.json()) == {"error"}
    assert "Traceback" not in answer.text and "root:" not in answer.text


def test_a_box_is_checked_before_a_model_is_loaded(client: TestClient) -> None:
    url = f"/api/labels/{first_ids(client)[0]}/propose"
    for box, why in [([1, 2, 3], "box"), (["a", 1, 2, 3], "box"), (None, "box")]:
        answer = client.post(url, json={"box": box})
        assert answer.status_code == 422 and why in answer.json()["error"]


def hostile(run: Path, expression: str) -> None:
    """Let the first item of a run say something."""
    path = run / "examples" / "unlabeled.parquet"
    table = pq.read_table(path)
    texts = [expression, *table["expression"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.column_names.index("expression"), "expression", pa.array(texts)), path)


def test_expressions_are_text(reviewed_run: Path) -> None:
    hostile(reviewed_run, HOSTILE)
    with client_of(reviewed_run) as client:
        found = client.get("/api/labels", params={"text": "onerror"})
        assert found.headers["content-type"] == "application/json"
        (row,) = found.json()["rows"]
        assert row["expression"] == HOSTILE
        assert decided(client, row["sent_id"], "accept").status_code == 200
    (action,) = Journal(reviewed_run).decisions()
    assert action.label["expression"] == HOSTILE


def test_a_label_without_a_pixel_cannot_be_accepted(reviewed_run: Path) -> None:
    path, row = Labels(reviewed_run).shard(0)
    labels = read_shard(path)
    empty = np.zeros((labels[row].grid,) * 2, bool)
    labels[row] = replace(labels[row], target=empty)
    write_shard(path, labels)
    with client_of(reviewed_run) as client:
        answer = decided(client, labels[row].sent_id, "accept")
        assert answer.status_code == 422 and "nothing to accept; redraw it, or say no such object" in answer.text
        assert decided(client, labels[row].sent_id, "no_object").status_code == 200


def test_the_decisions_come_back_as_labeled_data(
    client: TestClient, reviewed_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    accepted, redrawn, rejected, absent, undone = first_ids(client)
    size = client.get(f"/api/labels/{redrawn}").json()["size"]
    mask = np.zeros(size, bool)
    mask[2:9, 3:11] = True
    decided(client, accepted, "accept")
    decided(client, redrawn, "redraw", counts=run_lengths(encode(mask)).tolist())
    decided(client, rejected, "wrong_object")
    decided(client, absent, "no_object")
    decided(client, undone, "accept")
    decided(client, undone, "undo", upon=5)
    words = ["data", "import", "review", str(reviewed_run), "--root", str(tmp_path / "root"), "--dataset", "reviewed"]
    assert cli.main(words) == 0, capsys.readouterr()
    capsys.readouterr()
    dataset = ReferDataset.open(tmp_path / "root", "reviewed", "own", cache_dir=tmp_path / "cache")
    labels = Labels(reviewed_run)
    texts = {i: labels.expressions[labels.position(i)] for i in (accepted, redrawn, rejected, absent)}
    examples, _ = dataset.labeled_examples("train")
    masks = {example.expression: decode(example.mask_rle) for example in examples}
    rle = Items(labels).record(accepted)[1]
    kept = {texts[accepted]: decode(rle), texts[redrawn]: mask, texts[absent]: np.zeros_like(masks[texts[absent]])}
    assert masks.keys() == kept.keys()
    for text, expected in kept.items():
        np.testing.assert_array_equal(masks[text], expected)
    _, skips = dataset.examples("train")
    assert [(skip.kind, skip.reason) for skip in skips] == [
        ("rejected_label", "a reviewer said that the label of an earlier run is wrong, and drew no other mask")
    ]
    assert cli.main(["report", str(reviewed_run)]) == 0
    report = (reviewed_run / "report.html").read_text()
    assert "4 labels decided by anna: 1 accepted, 1 redrawn, 1 wrong object, 1 no such object" in report
    assert "mean IoU of redrawn masks with the labels: " in report


def test_a_run_that_nobody_reviewed_gives_nothing_to_import(
    whole_run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["data", "import", "review", str(whole_run.path), "--root", str(tmp_path), "--dataset", "reviewed"]
    assert cli.main(words) == 1
    assert f"nobody has reviewed it; `l2l review {whole_run.path}` opens the page" in capsys.readouterr().err
    assert not (tmp_path / "reviewed").exists()
