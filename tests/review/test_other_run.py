"""What is answered where the run's folder is gone or holds another run, and where the journal changed meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from l2l_ray.review.journal import FILE, Journal
from tests.review.test_app import client_of, decided, first_ids


@pytest.fixture
def client(reviewed_run: Path) -> Iterator[TestClient]:
    with client_of(reviewed_run) as client:
        yield client


def test_a_decision_about_another_run_is_not_saved(client: TestClient, reviewed_run: Path) -> None:
    sent_id, own = first_ids(client)[0], client.get("/api/run").json()["id"]
    folder, _, mark = own.partition("-")
    for other in (f"{folder}-{mark[::-1]}", folder):
        answer = decided(client, sent_id, "accept", run=other)
        assert answer.status_code == 412 and "not saved: this decision is about another run" in answer.json()["error"]
    assert not (reviewed_run / FILE).exists()
    assert decided(client, sent_id, "accept", run=own).json()["saved"] == 1


def test_a_key_is_that_of_one_action(client: TestClient, reviewed_run: Path) -> None:
    first, second, *_ = first_ids(client)
    body = {"action": "accept", "upon": 0, "key": "one for two"}
    assert client.post(f"/api/labels/{first}/actions", json=body).status_code == 200
    answer = client.post(f"/api/labels/{second}/actions", json=body)
    assert answer.status_code == 422 and "the key of this action is that of another one" in answer.json()["error"]
    assert len(Journal(reviewed_run)) == 1


def test_where_the_runs_folder_is_gone_nothing_is_called_saved(reviewed_run: Path) -> None:
    with client_of(reviewed_run) as other:
        ids = first_ids(other)
    client = client_of(reviewed_run)  # has read no mask yet
    first, second, *_ = ids
    assert decided(client, first, "accept").status_code == 200
    reviewed_run.rename(reviewed_run.with_name("archived"))
    for answer in (decided(client, second, "accept"), client.get("/api/labels"), client.get("/api/run")):
        assert answer.status_code == 500 and "the run is no longer in" in answer.json()["error"], answer.text
    assert not reviewed_run.exists(), "no folder is made in its place"
    reviewed_run.with_name("archived").rename(reviewed_run)
    assert decided(client, second, "reject").json()["saved"] == 2


def test_a_problem_with_the_journal_is_told_with_the_next_decision(client: TestClient, reviewed_run: Path) -> None:
    first, second, *_ = first_ids(client)
    assert decided(client, first, "accept").json()["problems"] == []
    (reviewed_run / FILE).unlink()
    (problem,) = decided(client, second, "reject").json()["problems"]
    assert "was replaced, cut or removed by something else" in problem


def test_a_label_and_a_list_come_with_how_many_are_decided(client: TestClient, reviewed_run: Path) -> None:
    first, second, *_ = first_ids(client)
    Journal(reviewed_run).add(first, "reject", "ben", 0, "of another server")
    for path in ("/api/labels", f"/api/labels/{second}"):
        assert client.get(path).json()["counts"]["rejected"] == 1
