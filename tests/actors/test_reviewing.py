"""The review page on Serve: two reviewers under a prefix, strangers, what cannot be reviewed, and a real server."""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
from pydantic import ValidationError
from starlette.testclient import TestClient

from l2l_ray.actors.reviewing import REVIEW_APP, ROUTE, ReviewArgs, app_of, application, build, require_reviewable
from l2l_ray.actors.serve import drain
from l2l_ray.actors.serve_states import APP
from l2l_ray.errors import ConfigError, DataError, L2LError
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.review.app import PAGE, PAGE_FILES, work_of
from l2l_ray.review.journal import FILE, Journal
from l2l_ray.review.labels import Labels
from l2l_ray.serving.access import sha256_of
from l2l_ray.serving.settings import ServeConfig
from l2l_ray.storage import place
from tests.actors.test_serve import job
from tests.finished_run import write_finished_run
from tests.ray_runs import WAIT_S, actors, wait_for

TOKEN = "0123456789abcdef"
HOST = "127.0.0.1:8000"
PROXY = "serve.example.org"
SETTINGS = ServeConfig(review=True, public_url=f"https://{PROXY}")


def headers(name: str, **more: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKEN}", "x-l2l-reviewer": name, **more}


@pytest.fixture
def run(copied: Any) -> Path:
    """Give the folder of a finished run that nobody has reviewed."""
    found: RunFolder = copied(without=())
    return found.path


@pytest.fixture
def client(run: Path) -> Iterator[TestClient]:
    """Give a browser of the application, asked as Serve's proxy asks it: whole paths, and the prefix beside them."""
    args = ReviewArgs.model_validate(application(run, SETTINGS, sha256_of(TOKEN))["args"])
    url = f"http://{HOST}{ROUTE}"
    with TestClient(app_of(args), base_url=url, root_path=ROUTE, raise_server_exceptions=False) as client:
        yield client


def decided(client: Any, url: str, name: str, sent_id: int, action: str, upon: int = 0) -> Any:
    body = {"action": action, "upon": upon, "key": f"{sent_id}-{action}-{upon}-{name}"}
    return client.post(f"{url}/api/labels/{sent_id}/actions", json=body, headers=headers(name))


def test_two_reviewers_decide_under_their_own_names(client: TestClient, run: Path) -> None:
    rows = client.get("/api/labels", headers=headers("anna")).json()["rows"]
    first, second = rows[0]["sent_id"], rows[1]["sent_id"]
    told = [client.get("/api/run", headers=headers(name)).json() for name in ("anna", "J%C3%BCrgen%20B.")]
    assert [one["reviewer"] for one in told] == ["anna", "Jürgen B."] and all(one["asks_name"] for one in told)
    assert [one["id"] for one in told] == [work_of(run, name, Labels(run)) for name in ("anna", "Jürgen B.")]
    assert decided(client, "", "anna", first, "reject").status_code == 200
    assert decided(client, "", "J%C3%BCrgen%20B.", second, "wrong_object").status_code == 200
    late = decided(client, "", "J%C3%BCrgen%20B.", first, "no_object")
    assert late.status_code == 409 and "not saved: anna said 'rejected'" in late.json()["error"]
    made = {action.sent_id: (action.reviewer, action.action) for action in Journal(run).decisions()}
    assert made == {first: ("anna", "reject"), second: ("Jürgen B.", "wrong_object")}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (None, "asks who decides, got no name"),
        ("", "a name of 1 to 80 printable characters, got ''"),
        ("%20%09", "got ''"),
        ("x" * 81, "and more"),
        ("bell%07", "got 'bell"),
        ("%E2%80%AEanna", "printable characters"),
        ("%ff", "must be UTF-8 written as in an address, got '%ff'; use this page"),
        ("%ED%A0%80" + "x" * 100, "must be UTF-8 written as in an address, got '%ED"),
    ],
)
def test_who_does_not_say_a_name_decides_nothing(client: TestClient, run: Path, name: str | None, said: str) -> None:
    sent_id = client.get("/api/labels", headers=headers("anna")).json()["rows"][0]["sent_id"]
    given = {key: value for key, value in headers(name or "").items() if name is not None or key != "x-l2l-reviewer"}
    body = {"action": "reject", "upon": 0, "key": "12345678"}
    for answer in (
        client.get("/api/run", headers=given),
        client.post(f"/api/labels/{sent_id}/actions", json=body, headers=given),
    ):
        assert answer.status_code == 428 and said in answer.json()["error"] and len(answer.text) < 300
    assert not (run / FILE).exists()


def test_the_page_lies_under_the_prefix_and_asks_below_it(client: TestClient) -> None:
    for path, name in PAGE_FILES.items():
        answer = client.get(path)
        assert answer.status_code == 200 and answer.content == (PAGE / name).read_bytes(), path
        assert "default-src 'self'" in answer.headers["content-security-policy"]
    whole = client.get(f"http://{HOST}{ROUTE}", follow_redirects=False)
    assert whole.status_code == 307 and whole.headers["location"] == "review/", "of whatever scheme"
    for file in PAGE.iterdir():
        assert not re.search(r"""(src|href)="/|(get|post|request|fetch|from)\(?\s*["'`]/""", file.read_text()), file


@pytest.mark.parametrize("path", ["/api/run", "/api/labels", "/api/labels/1/picture", "/nothing", f"{ROUTE}/page.js"])
def test_nothing_else_is_told_without_the_token(client: TestClient, path: str) -> None:
    for token in ("", "Bearer wrong", f"Basic {TOKEN}"):
        answer = client.get(path, headers=headers("anna", authorization=token))
        assert answer.status_code == 401 and "asks for its token" in answer.json()["error"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1", "127.0.0.1:8001", f"{PROXY}:8000"])
def test_another_host_is_refused(client: TestClient, host: str) -> None:
    for path in ("/", "/api/run"):
        answer = client.get(path, headers=headers("anna", host=host))
        assert answer.status_code == 421 and f"127.0.0.1:8000 or localhost:8000 or {PROXY}" in answer.json()["error"]


@pytest.mark.parametrize(
    "foreign",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": f"http://{PROXY}"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
    ],
)
def test_other_sites_are_refused_and_the_proxy_is_none(client: TestClient, run: Path, foreign: dict[str, str]) -> None:
    sent_id = client.get("/api/labels", headers=headers("anna")).json()["rows"][0]["sent_id"]
    url, body = f"/api/labels/{sent_id}/actions", {"action": "reject", "upon": 0, "key": "12345678"}
    answer = client.post(url, json=body, headers=headers("anna", host=PROXY, **foreign))
    assert answer.status_code == 403 and not (run / FILE).exists()
    own = headers("anna", host=PROXY, origin=f"https://{PROXY}", **{"sec-fetch-site": "same-origin"})
    assert client.post(url, json=body, headers=own).status_code == 200


def test_what_cannot_be_reviewed_is_named(run: Path, tmp_path: Path) -> None:
    require_reviewable(run)
    assert not (run / FILE).exists(), "a look decides nothing"
    version = next((run / "train").glob("l2l-v*"))
    with pytest.raises(ConfigError, match=rf"labels of a whole run, got l2l version .*; give the run's folder {run}"):
        require_reviewable(version)
    with pytest.raises(ConfigError, match=r"needs a run on a disk .*, got s3://bucket/runs/mine: .* without --review"):
        require_reviewable(place("s3://bucket/runs/mine"))
    with pytest.raises(ConfigError, match="is not finished, so its labels may still change"):
        require_reviewable(write_finished_run(tmp_path))
    (run / FILE).mkdir()
    with pytest.raises(DataError, match=rf"{FILE} cannot be read: .*; check its permissions"):
        require_reviewable(run)
    (run / FILE).rmdir()
    (run / "review.lock").unlink()
    (run / "review.lock").mkdir()
    with pytest.raises(DataError, match=r"no decision could be saved in .*knows locks"):
        require_reviewable(run)


def test_a_run_without_labels_is_refused(run: Path) -> None:
    (run / "ledger.jsonl").write_text("")
    with pytest.raises(L2LError, match="has no whole round of pseudo-labels"):
        app_of(ReviewArgs(run=str(run), token_sha256=sha256_of(TOKEN), addresses=(f"http://{HOST}",)))


def test_what_serve_is_told_is_checked_and_never_holds_a_token(tmp_path: Path) -> None:
    told = application(tmp_path, ServeConfig(review=True, review_resources={"CPU": 1, "photos": 1}), sha256_of(TOKEN))
    assert told["route_prefix"] == "/review" and TOKEN not in str(told)
    assert told["args"]["addresses"] == ["http://127.0.0.1:8000", "http://localhost:8000"]
    deployment: Any = build(told["args"])._bound_deployment  # why: only a cluster that runs it says what it was given
    assert deployment.num_replicas == 1, "one writer of the journal"
    assert deployment.ray_actor_options == {"num_cpus": 1, "resources": {"photos": 1}}
    for wrong in ({"token_sha256": TOKEN}, {"addresses": []}, {"addresses": ["evil.example/x"]}, {"reviewer": "anna"}):
        with pytest.raises(ValidationError) as problem:
            build({**told["args"], **wrong})
        assert next(iter(wrong)) in str(problem.value) and TOKEN not in str(problem.value)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--review", "--swap"], "serve: --review is of a server's start, got it with --swap"),
        (["--settings", "{run}/serve.yaml", "--swap"], r"--swap, which leaves .*; drop one \(--no-review where the"),
        (["--review", "--host", "0.0.0.0"], "review with host '0.0.0.0' needs public_url"),
        (["--public_url", "serve.example.org"], "public_url: .*scheme, name and port"),
        (["--review", "--checkpoint", "s3://bucket/runs/mine"], "needs a run on a disk or a shared filesystem"),
    ],
)
def test_words_that_do_not_fit_are_refused_before_ray_is_asked(run: Path, words: list[str], said: str) -> None:
    (run / "serve.yaml").write_text("review: true\n")
    with job("127.0.0.1:1", "--checkpoint", str(run), *(word.format(run=run) for word in words)) as process:
        told, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1 and re.search(said, told) and told.count("\n") == 1, told


def test_the_end_waits_for_its_own_applications_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    by_config = {"name": "by config", "import_path": "theirs:app"}
    found: dict[str, Any] = {
        APP: {"name": APP},
        REVIEW_APP: {"name": REVIEW_APP},
        "by config": by_config,
        "by hand": None,
    }
    told = []

    class Client:
        def applications(self) -> Any:
            return dict(found)

        def deploy_applications(self, config: Any) -> None:
            told.append(config)
            del found[APP], found[REVIEW_APP]

    monkeypatch.setattr("ray.serve.status", lambda: SimpleNamespace(applications=dict(found)))
    client: Any = Client()
    config = {"http_options": {}, "applications": [{"name": APP}, {"name": REVIEW_APP}]}
    began = time.monotonic()
    for _ in range(2):  # the second time nothing is left to end
        drain(client, config, 5.0)
    assert told == [{"http_options": {}, "applications": [by_config]}] and time.monotonic() - began < 5.0


@pytest.mark.slow
def test_a_real_server_has_both_pages_and_the_review_stays_when_the_checkpoint_changes(
    ray_local: str, run: Path, tmp_path: Path
) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    words = ["--checkpoint", str(run), "--port", str(port), "--review", "--replica_resources", "{CPU: 0.1}"]
    with job(ray_local, *words, "--review_resources", "{CPU: 0.1}") as process:
        try:
            assert process.stdout is not None
            lines = iter(process.stdout.readline, "")
            started = next((line for line in lines if line.startswith(("review ", "serve:"))), "")
            assert started == f"review     {url}/review/#token=$L2L_TOKEN\n"
            assert b"Find what a text refers to" in requests.get(f"{url}/", timeout=WAIT_S).content
            assert requests.get(f"{url}/review", timeout=WAIT_S).content == (PAGE / "index.html").read_bytes()
            assert requests.get(f"{url}/review/page.js", timeout=WAIT_S).content == (PAGE / "page.js").read_bytes()
            assert requests.get(f"{url}/review/api/run", timeout=WAIT_S).status_code == 401
            foreign = headers("anna", origin="https://evil.example")
            assert requests.get(f"{url}/review/api/run", headers=foreign, timeout=WAIT_S).status_code == 403
            asked = {"headers": headers("anna"), "timeout": WAIT_S}
            rows = requests.get(f"{url}/review/api/labels", **asked).json()["rows"]  # type: ignore[arg-type]
            assert decided(requests, f"{url}/review", "anna", rows[0]["sent_id"], "reject").status_code == 200
            other = write_finished_run(tmp_path)
            with job(ray_local, "--checkpoint", str(other), "--swap") as swapped:
                assert swapped.communicate(timeout=WAIT_S)[0].startswith("serving    finished l2l version 2\n")
            assert decided(requests, f"{url}/review", "ben", rows[1]["sent_id"], "reject").status_code == 200
            told = requests.get(f"{url}/review/api/run", **asked).json()  # type: ignore[arg-type]
            assert (told["run"], told["counts"]["rejected"]) == (run.name, 2)
            process.send_signal(signal.SIGTERM)
            said, _ = process.communicate(timeout=WAIT_S)
            assert process.returncode == 130 and "Traceback" not in said, said
        finally:
            process.kill()
    assert {action.reviewer for action in Journal(run).decisions()} == {"anna", "ben"}
    wait_for(lambda: not actors(class_name="ServeReplica:l2l-review:Review"), "the release of the replica")
