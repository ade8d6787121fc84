"""Real S3-compatible servers on loopback, from the test extra, each for the length of a test session or test.

localbucket keeps each object as a file, which tests can damage, and honours `If-None-Match`; nanio checks signatures
and does not know it, as some stores in the field do not.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest

from l2l_ray.storage import StorePath, file_system

ACCESS = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret", "AWS_DEFAULT_REGION": "us-east-1"}
START_S = 60.0


@dataclass(frozen=True)
class ObjectStore:
    """A running server with one bucket."""

    folder: Path  # where it keeps its objects

    def place(self, name: str) -> StorePath:
        """Return a place in the bucket."""
        return StorePath(f"s3://bucket/{name}")

    def file(self, path: StorePath) -> Path:
        """Return the file in which the server keeps an object."""
        return self.folder / path.key


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path, server: str) -> Iterator[ObjectStore]:
    """Start a server on a free port of loopback; every S3 client of this process and its children is pointed at it."""
    if find_spec("s3fs") is None or find_spec(server) is None:
        pytest.skip(f"s3fs or {server} is not installed: pip install -e '.[storage,dev]'")
    port, bucket = _free_port(), folder / "bucket"
    bucket.mkdir(parents=True)
    words = {
        "localbucket": ["-m", "localbucket", str(folder), "--host", "127.0.0.1", "--port", str(port)],
        "nanio": ["-m", "nanio", "serve", "--data-dir", str(folder), "--host", "127.0.0.1", "--port", str(port)],
    }[server]
    keys = {"NANIO_ACCESS_KEY": ACCESS["AWS_ACCESS_KEY_ID"], "NANIO_SECRET_KEY": ACCESS["AWS_SECRET_ACCESS_KEY"]}
    process = subprocess.Popen(
        [sys.executable, *words], env={**os.environ, **keys}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_until_it_listens(process, port)
        with pytest.MonkeyPatch.context() as patch:
            for name, value in {**ACCESS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}"}.items():
                patch.setenv(name, value)
            file_system.cache_clear()
            yield ObjectStore(folder)
    finally:
        file_system.cache_clear()
        process.terminate()
        process.wait(30)


def _wait_until_it_listens(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + START_S
    while True:
        assert process.poll() is None, "the server ended"
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            assert time.monotonic() < deadline, "the server does not listen"
            time.sleep(0.05)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """Give a store that can refuse to replace an object."""
    with serving(tmp_path_factory.mktemp("store"), "localbucket") as found:
        yield found


@pytest.fixture
def simple_store(tmp_path: Path) -> Iterator[ObjectStore]:
    """Give a store that cannot, and that lets in whoever signs with the right key alone."""
    with serving(tmp_path / "store", "nanio") as found:
        yield found
