"""`jobs/serve.py` on a real Ray Serve: answers, overload, a change of checkpoint under load, and an ordered end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests
from PIL import Image, ImageDraw
from ray import serve
from ray.exceptions import RayTaskError
from starlette.requests import Request

from l2l_ray.actors.connection import connected
from l2l_ray.actors.deployments import HEALTH_PERIOD_S, OnDevice
from l2l_ray.actors.environment import TOKEN_ENV
from l2l_ray.actors.serve_interface import ServeInterface
from l2l_ray.actors.serve_states import APP, PREDICTOR, states_after
from l2l_ray.config import ClusterConfig, PriorConfig, read_config, save_config
from l2l_ray.device import DeviceFailed
from l2l_ray.predictor import Predictor
from l2l_ray.serving.settings import is_loopback
from tests.finished_run import write_finished_run
from tests.ray_runs import WAIT_S, actors, listening, wait_for
from tests.tiny_sams import SAMS

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "0123456789abcdef"
MAX_QUEUED, MAX_BATCH = 3, 2


@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Echo:
    """Another team's application: it answers with the path that it was asked under."""

    async def __call__(self, request: Request) -> str:
        return request.scope["root_path"].strip("/")


echo = Echo.bind()  # type: ignore[attr-defined]


def job(address: str, *words: str) -> subprocess.Popen[str]:
    """Start a server's job as a terminal does, in a process group of its own."""
    environment = {**os.environ, "RAY_ADDRESS": address, "PYTHONPATH": str(ROOT), "L2L_TOKEN": TOKEN}
    command = [sys.executable, "jobs/serve.py", *words]
    both: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, start_new_session=True, **both)


def free_port(host: str = "127.0.0.1") -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


class Server:
    """A served run that clients ask."""

    def __init__(self, process: subprocess.Popen[str], port: int, photo: Path) -> None:
        self.process, self.url, self._photo = process, f"http://127.0.0.1:{port}", photo.read_bytes()
        assert process.stdout is not None
        self.client = ServeInterface(process.stdout.readline().split()[1])  # of the cluster's dashboard

    def ask(self, *texts: str) -> requests.Response:
        return requests.post(
            f"{self.url}/v1/masks",
            files={"image": ("a.png", self._photo)},
            data={"expression": list(texts)},
            headers={"authorization": f"Bearer {TOKEN}"},
            timeout=WAIT_S,
        )


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Give a run, another one, one whose weights are damaged, one of another MLLM, and a photo."""
    root = tmp_path_factory.mktemp("serve")
    SAMS["sam2"](root / "sam2")
    first = write_finished_run(root, PriorConfig(proposal="sam", sam_model=str(root / "sam2")))
    names = ("second", "damaged", "other")
    found = {"first": first, "photo": root / "photo.png", **{name: root / name for name in names}}
    for name in names:
        shutil.copytree(first, found[name])
    config = read_config(first / "config.yaml")
    for name, changed in (("second", {"box_softness": 0.2, "batch_size": 4}), ("other", {"num_samples": 2})):
        prior = config.prior.model_copy(update=changed)
        save_config(config.model_copy(update={"prior": prior}), found[name] / "config.yaml")
    (found["damaged"] / "train" / "l2l-v0002" / "teacher.safetensors").write_bytes(b"damaged")
    photo = Image.new("RGB", (160, 120), (230, 230, 230))
    ImageDraw.Draw(photo).ellipse((20, 20, 70, 70), fill=(220, 30, 30))
    photo.save(found["photo"])
    return found


@pytest.fixture(scope="module")
def server(ray_local: str, places: dict[str, Path]) -> Iterator[Server]:
    """Give the first run, served with the MLLM and SAM in a deployment of their own."""
    port = free_port()
    words = ["--checkpoint", str(places["first"]), "--port", str(port), "--prior"]
    words += ["--max_queued", str(MAX_QUEUED), "--max_batch", str(MAX_BATCH), "--replica_resources", "{CPU: 0.1}"]
    with job(ray_local, *words, "--prior_resources", "{CPU: 0.1}") as process:
        server = Server(process, port, places["photo"])
        try:
            wait_for(lambda: _is_ready(server.url), "the server", process)
            yield server
            process.terminate()  # what it deployed would hold the room that the next tests need
            process.wait(WAIT_S)
        finally:
            process.kill()


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=10).status_code == 200
    except requests.RequestException:
        return False


@pytest.mark.slow
def test_where_an_empty_serve_runs_a_server_takes_its_address_or_is_refused(
    ray_local: str, places: dict[str, Path]
) -> None:
    """Stands first: the server of the others is not up yet."""
    port = free_port()
    with connected(ClusterConfig(address=ray_local)):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            words = ["--checkpoint", str(places["first"]), "--replica_resources", "{CPU: 0.1}"]
            with job(ray_local, *words, "--port", str(free_port())) as process:
                said, _ = process.communicate(timeout=WAIT_S)
            assert process.returncode == 1 and f"listens on host 127.0.0.1, port {port} already, got" in said, said
            with job(ray_local, *words, "--port", str(port)) as process:
                assert process.stdout is not None
                assert f"serving    http://127.0.0.1:{port}/v1/masks\n" in iter(process.stdout.readline, "")
                process.terminate()
                process.communicate(timeout=WAIT_S)
        finally:
            serve.shutdown()


def test_the_answer_is_that_of_the_predictor(server: Server, places: dict[str, Path]) -> None:
    response = server.ask("red circle", "the left")
    assert response.status_code == 200, response.text
    predictor = Predictor.from_run(places["first"])
    for mask, text in zip(response.json()["masks"], ("red circle", "the left"), strict=True):
        expected = predictor.predict(places["photo"], text)
        assert mask["mask_rle"] == expected.summary()["mask_rle"]
        assert mask["prior_failure"] == expected.prior.failure and expected.prior.masks and mask["note"] == ""
    (long,) = server.ask(f"the red {'circleoid-' * 12}circle").json()["masks"]
    assert long["note"].startswith("the segmenter reads the first ")
    assert response.json()["checkpoint"] == "finished l2l version 2"
    assert set(response.json()["seconds"]) == {"decode", "wait", "predict", "total"}
    assert requests.post(f"{server.url}/v1/masks", timeout=WAIT_S).status_code == 401


def test_of_more_clients_than_the_queue_holds_each_gets_a_mask_or_is_told_to_come_back(server: Server) -> None:
    with ThreadPoolExecutor(20) as pool:
        responses = list(pool.map(lambda number: server.ask(f"circle {number}"), range(40)))
    refused = [response for response in responses if response.status_code == 503]
    assert len(refused) + sum(response.status_code == 200 for response in responses) == len(responses)
    assert 0 < len(refused) < len(responses)
    for response in refused:
        assert "ask again later" in response.json()["error"] and int(response.headers["retry-after"]) > 0
    assert server.ask("circle").status_code == 200


def test_a_change_of_checkpoint_drops_no_request_and_one_that_cannot_be_loaded_changes_nothing(
    ray_local: str, server: Server, places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # A slow machine's warnings are not this job's words: with so short a wait, Serve has one in nearly every run.
    monkeypatch.setenv("RAY_SERVE_QUEUE_LENGTH_RESPONSE_DEADLINE_S", "0.001")
    answers: list[requests.Response] = []
    ended = threading.Event()

    def ask_on() -> None:
        while not ended.wait(0.1):  # an answer takes longer, so one is nearly always in work
            answers.append(server.ask("red circle"))

    def swap(name: str) -> tuple[int, str]:
        with job(ray_local, "--checkpoint", str(places[name]), "--swap") as process:
            said, _ = process.communicate(timeout=WAIT_S)
        return process.returncode, said

    client = threading.Thread(target=ask_on)
    client.start()
    try:
        status, said = swap("second")
        assert status == 0 and said.startswith("serving    second l2l version 2\nnote: this run learned from drawn"), (
            said
        )
        num_before = len(answers)
        wait_for(lambda: len(answers) > num_before + 4, "answers of the second run", server.process)
        status, said = swap("damaged")
        assert status == 1 and "the checkpoint stays second l2l version 2: " in said and said.count("\n") == 1, said
        weights = [places[name] / "train" / "l2l-v0002" / "teacher.safetensors" for name in ("second", "damaged")]
        shutil.copyfile(*weights)
        status, said = swap("damaged")
        assert status == 0 and said.startswith("serving    damaged l2l version 2\n"), "it was repaired"
        weights[1].write_bytes(b"damaged")
        status, said = swap("damaged")
        assert status == 1 and "each replica keeps what it has loaded" in said, "the path that is served is read again"
        assert swap("second")[0] == 0
    finally:
        ended.set()
        client.join()
    assert [answer.text for answer in answers if answer.status_code != 200] == []
    names = [answer.json()["checkpoint"].split()[0] for answer in answers]
    assert {"finished", "second"} <= set(names) <= {"finished", "second", "damaged"} and names[-1] == "second"


def test_all_listens_on_loopback_but_a_port_of_each_replica_that_asks_for_the_token(server: Server) -> None:
    """docs/serving.md says so: where Ray has closed that port, it says too much."""
    processes = {one.pid: one for one in psutil.Process().children(recursive=True)}
    opened = [(pid, port) for pid, host, port in listening(processes) if not is_loopback(host)]
    replicas = {pid for pid, one in processes.items() if one.cmdline()[:1][0].startswith("ray::ServeReplica")}
    assert {pid for pid, _ in opened} == replicas and len(opened) == len(replicas) > 1
    for _, port in opened:
        with grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.enable_http_proxy", 0)]) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary("/ray.serve.ASGIService/HandleRequest")(b"", timeout=WAIT_S)
        assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED
    for path, said in (("/-/healthz", "success"), ("/-/routes", '{"/":"l2l"}')):  # of Ray's proxy, before our page
        assert requests.get(f"{server.url}{path}", timeout=WAIT_S).text == said


@pytest.mark.slow
def test_a_config_of_serve_with_another_language_model_replaces_it_and_never_mixes_the_two(
    ray_local: str, server: Server, places: dict[str, Path]
) -> None:
    with job(ray_local, "--checkpoint", str(places["other"]), "--swap") as process:
        assert "other was trained with another language model" in process.communicate(timeout=WAIT_S)[0]
    mixed = "another language model answers here now"
    for name in ("other", "second"):
        app = server.client.get_serve_details()["applications"][APP]["deployed_app_config"]
        for deployment in app["deployments"]:
            deployment["user_config"] = {"checkpoint": str(places[name])}
        answer = server.ask("red circle").json()
        before, right = answer["checkpoint"], answer["masks"]
        server.client.deploy_applications({"applications": [app]})
        deadline = time.monotonic() + WAIT_S
        while (answer := server.ask("red circle").json()).get("checkpoint", before) == before:
            assert time.monotonic() < deadline, answer
            assert "error" in answer or answer["masks"] == right or mixed in answer["masks"][0]["prior_failure"]
            time.sleep(0.2)
        assert answer["checkpoint"].startswith(name) and mixed not in answer["masks"][0]["prior_failure"]


def test_after_the_death_of_a_predictor_requests_are_answered_again_and_none_hangs(server: Server) -> None:
    (predictor,) = actors(class_name="ServeReplica:l2l:Predictor")
    os.kill(predictor["pid"], signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while (response := server.ask("circle")).status_code != 200:
        assert response.status_code == 503 and "ask again later" in response.json()["error"], response.text
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert response.json()["checkpoint"] == "second l2l version 2", "the refused checkpoint is not tried again"


@pytest.mark.slow
def test_a_second_server_is_refused_by_name(ray_local: str, server: Server, places: dict[str, Path]) -> None:
    port = free_port()
    with job(ray_local, "--checkpoint", str(places["first"]), "--port", str(port)) as process:
        said, _ = process.communicate(timeout=WAIT_S)
    assert process.returncode == 1
    assert "runs l2l already, expected nothing; --swap changes its checkpoint" in said, said


def test_sigterm_ends_the_server_in_order_and_what_others_have_deployed_since_stays(server: Server) -> None:
    def answered(path: str) -> bool:
        return requests.get(f"{server.url}/{path}", timeout=WAIT_S).text == path

    serve.run(Echo.bind(), name="by hand", route_prefix="/by-hand")
    details = server.client.get_serve_details()["applications"]
    by_config = {
        "name": "by config",
        "route_prefix": "/by-config",
        "import_path": f"{__name__}:echo",
        "runtime_env": {"env_vars": {"PYTHONPATH": str(ROOT)}},
    }
    server.client.deploy_applications({"applications": [details[APP]["deployed_app_config"], by_config]})
    wait_for(lambda: answered("by-hand") and answered("by-config"), "the other applications")
    try:
        server.process.send_signal(signal.SIGTERM)
        said, _ = server.process.communicate(timeout=WAIT_S)
        assert server.process.returncode == 130, said
        assert (
            said.endswith("\nstopped; requests that were in work have been answered or refused\n")
            and "Traceback" not in said
        )
        assert not _is_ready(server.url)
        wait_for(lambda: not actors(class_name="ServeReplica:l2l:Predictor"), "the release of the replicas")
        assert answered("by-hand") and answered("by-config")
    finally:
        serve.shutdown()


@pytest.mark.slow
def test_ctrl_c_of_a_terminal_ends_a_server_with_a_cluster_of_its_own(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_TMPDIR", *TOKEN_ENV):
        monkeypatch.delenv(name, raising=False)
    port = free_port("::1")
    with job("local", "--checkpoint", str(places["first"]), "--host", "::1", "--port", str(port)) as process:
        try:
            assert process.stdout is not None
            said = list(iter(process.stdout.readline, f"page       http://[::1]:{port}/\n"))
            assert "note: this run learned from drawn shapes" in process.stdout.readline(), said
            assert _is_ready(f"http://[::1]:{port}")
            os.killpg(process.pid, signal.SIGINT)
            ended, _ = process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert process.returncode == 130 and f"serving    http://[::1]:{port}/v1/masks\n" in said, ended
    assert ended.endswith("\nstopped; requests that were in work have been answered or refused\n"), ended


@pytest.mark.slow
def test_one_replica_of_two_that_fails_is_seen(ray_local: str, tmp_path: Path) -> None:
    class OneFails:
        """Stands for a predictor of which one replica cannot load what the other can."""

        def __init__(self, taken: Path) -> None:
            try:
                taken.touch(exist_ok=False)
                self.problem = ""
            except FileExistsError:
                self.problem = "no room"

        async def reconfigure(self, user_config: dict[str, str]) -> None:
            self.asked = user_config["asked"]

        async def state(self) -> dict[str, str]:
            return {"checkpoint": "", "asked": self.asked, "problem": self.problem}

    deployment = serve.deployment(name=PREDICTOR, num_replicas=2, ray_actor_options={"num_cpus": 0.1})(OneFails)
    port = free_port()
    with connected(ClusterConfig(address=ray_local)):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            told = deployment.options(user_config={"checkpoint": "/runs/new", "asked": "2"})
            serve.run(told.bind(tmp_path / "taken"), name=APP)
            assert sorted(state["problem"] for state in states_after("/runs/new", "2")) == ["", "no room"]
        finally:
            serve.shutdown()


@pytest.mark.slow
def test_a_replica_whose_device_has_failed_is_replaced(ray_local: str) -> None:
    class Failing(OnDevice):
        """Stands for a predictor on a GPU that fails at a request."""

        async def answer(self) -> None:
            with self.noticing():
                raise DeviceFailed("the device failed")

    def pids() -> list[int]:
        return [one["pid"] for one in actors(class_name="ServeReplica:default:Failing")]

    options: dict[str, Any] = {"health_check_period_s": HEALTH_PERIOD_S, "ray_actor_options": {"num_cpus": 0.1}}
    with connected(ClusterConfig(address=ray_local)):
        serve.start(http_options={"host": "127.0.0.1", "port": free_port()})
        try:
            handle = serve.run(serve.deployment(name="Failing", **options)(Failing).bind())
            (first,) = pids()
            with pytest.raises(RayTaskError, match="the device failed"):
                handle.answer.remote().result()
            wait_for(lambda: bool(pids()) and first not in pids(), "another replica in its place")
        finally:
            serve.shutdown()
