"""What serving costs: requests answered per second over HTTP by Ray Serve, against the same batches in a loop.

Both answer the same uploads with the same code (`Answerer`), with one torch thread, in batches of the same size: the
loop in this process, then one predictor replica behind `jobs/serve.py`, asked by as many clients as its replica holds.
The two take turns, so that a machine that slows down slows both; ratios are the median of those of neighbours. Of both
also: how long the model takes for a batch, and in which share of the time it is at work.

Then a crowd: twice as many clients as its replica and its queue hold ask without a pause. Written down are what they
are answered, and the memory of all of the server's processes together before, every ten seconds, and after.

Usage: python -m benchmarks.serving --run RUN [--out benchmarks/results/serving.json]
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
import torch
from PIL import Image

from benchmarks.command import add_out, at_least_one, run_main, write_results
from benchmarks.demo import memory_gb
from l2l_ray.loop.state.run_folder import git_commit
from l2l_ray.processes import started_by
from l2l_ray.randomness import numpy_generator
from l2l_ray.refshapes.scenes import render_scene
from l2l_ray.serving.answers import Answerer
from l2l_ray.serving.settings import ServeConfig
from l2l_ray.serving.uploads import Refusal, Upload

ROOT = Path(__file__).resolve().parent.parent
TOKEN = "benchmark-0123456789"
CROWD_LOOK_S = 10.0
WORDS = ("the red circle", "left square", "the big one at the top", "blue triangle")


def uploads(count: int, side: int) -> list[Upload]:
    """Return drawn pictures, each with an expression."""
    found = []
    for number in range(count):
        content = io.BytesIO()
        Image.fromarray(render_scene(numpy_generator(number), "refshapes", side).image).save(content, "PNG")
        found.append(Upload(content.getvalue(), (WORDS[number % len(WORDS)],)))
    return found


@dataclass(frozen=True)
class Turn:
    """How long all requests took, and each batch in the model; seconds."""

    seconds: float
    batches: list[float]


def loop(answerer: Answerer, asked: list[Upload], size: int) -> Turn:
    """Answer all in batches, in this process."""
    batches, started = [], time.perf_counter()
    for start in range(0, len(asked), size):
        batch = [answerer.prepare(upload) for upload in asked[start : start + size]]
        begun = time.perf_counter()
        answers = answerer.answer(batch)
        batches.append(time.perf_counter() - begun)
        for answer in answers:
            assert not isinstance(answer, Refusal), answer
            json.dumps(answer)
    return Turn(time.perf_counter() - started, batches)


def crowd(url: str, asked: list[Upload], job: int, num_clients: int, seconds: float = 90.0) -> dict[str, Any]:
    """Let many ask for some time; return how they were answered and the server's memory, PSS in MB of 10^6 bytes."""
    until = time.monotonic() + seconds

    def ask(client: int) -> list[int]:
        statuses = []
        with requests.Session() as session:
            while time.monotonic() < until:
                statuses.append(post(session, url, asked[(client + len(statuses)) % len(asked)]).status_code)
        return statuses

    def memory_mb() -> int:
        return round(1000 * memory_gb(set(started_by(job)))[0])

    memory = [memory_mb()]
    with ThreadPoolExecutor(num_clients) as pool:
        clients = [pool.submit(ask, number) for number in range(num_clients)]
        while wait(clients, CROWD_LOOK_S).not_done:
            memory.append(memory_mb())
    statuses = Counter(str(status) for client in clients for status in client.result())
    return {
        "clients": num_clients,
        "seconds": seconds,
        "answers": dict(sorted(statuses.items())),
        "memory_mb": [*memory, memory_mb()],
    }


def post(session: requests.Session, url: str, upload: Upload) -> requests.Response:
    """Ask for the masks of one upload."""
    return session.post(
        f"{url}/v1/masks",
        files={"image": upload.image},
        data={"expression": list(upload.expressions)},
        headers={"authorization": f"Bearer {TOKEN}"},
        timeout=300,
    )


def over_http(url: str, asked: list[Upload], num_clients: int) -> Turn:
    """Ask for all over HTTP."""

    def ask(upload: Upload) -> float:
        response = post(session, url, upload)
        assert response.status_code == 200, response.text
        return float(response.json()["seconds"]["predict"])

    with requests.Session() as session, ThreadPoolExecutor(num_clients) as pool:
        session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=num_clients))
        started = time.perf_counter()
        predicted = list(pool.map(ask, asked))
        return Turn(time.perf_counter() - started, sorted(set(predicted)))  # answers of one batch name the same time


@contextmanager
def served(run: Path, size: int) -> Iterator[tuple[str, int]]:
    """Serve a run on a private cluster; give its address and its process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = ["--checkpoint", str(run), "--port", str(port), "--max_batch", str(size)]
    environment = {**os.environ, "L2L_TOKEN": TOKEN, "PYTHONPATH": str(ROOT)}
    environment.pop("RAY_ADDRESS", None)
    with subprocess.Popen([sys.executable, "jobs/serve.py", *words], cwd=ROOT, env=environment) as job:
        try:
            while not _is_ready(f"http://127.0.0.1:{port}"):
                assert job.poll() is None, "the server ended"
                time.sleep(0.5)
            yield f"http://127.0.0.1:{port}", job.pid
        finally:
            job.send_signal(signal.SIGTERM)


def _is_ready(url: str) -> bool:
    try:
        return requests.get(f"{url}/readyz", timeout=10).status_code == 200
    except requests.RequestException:
        return False


def measured(run: Path, count: int, side: int, size: int, repeats: int) -> dict[str, Any]:
    """Return the figures of both, taken in turn."""
    asked = uploads(count, side)
    answerer = Answerer.load(run)
    settings = ServeConfig(max_batch=size)
    clients = settings.max_ongoing
    with served(run, size) as (url, job):
        loop(answerer, asked[:size], size)  # the first calls of both are slower
        over_http(url, asked[: 2 * size], clients)
        pairs = [(loop(answerer, asked, size), over_http(url, asked, clients)) for _ in range(repeats)]
        crowded = crowd(url, asked, job, 2 * settings.max_open)
    turns = dict(zip(("loop", "served"), zip(*pairs, strict=True), strict=True))
    return {
        "requests": count,
        "picture_px": side,
        "batch": size,
        "clients": clients,
        "requests_per_s": {name: [round(count / turn.seconds, 2) for turn in mine] for name, mine in turns.items()},
        "ratio": round(statistics.median(one.seconds / other.seconds for one, other in pairs), 3),
        "model_ms_a_batch": {
            name: round(1000 * statistics.median(seconds for turn in mine for seconds in turn.batches))
            for name, mine in turns.items()
        },
        "model_at_work": {
            name: round(statistics.median(sum(turn.batches) / turn.seconds for turn in mine), 3)
            for name, mine in turns.items()
        },
        "crowd": crowded,
        "commit": git_commit(),
        "cpus": os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 1),
        "machine": platform.machine(),
    }


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a finished run")
    parser.add_argument("--requests", type=at_least_one, default=48)
    parser.add_argument("--side", type=int, default=256, help="of the pictures, px")
    parser.add_argument("--batch", type=at_least_one, default=8)
    parser.add_argument("--repeats", type=at_least_one, default=7)
    add_out(parser, ROOT / "benchmarks" / "results" / "serving.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = measured(given.run, given.requests, given.side, given.batch, given.repeats)
    write_results(given.out, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    run_main(main)
