"""A small real server of chat completions that says what a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "Qwen/Qwen3-VL-8B-Instruct"
TEXT = '[{"bbox_2d": [100, 200, 500, 600], "label": "cat"}]'

Handle = Callable[["Server", BaseHTTPRequestHandler, dict[str, Any]], None]


def completion(
    text: str | None = TEXT,
    model: str = MODEL,
    log_probs: tuple[float, ...] | None = (-0.1, -0.3),
    finish_reason: str = "stop",
    **message: str,
) -> dict[str, Any]:
    tokens = None if log_probs is None else {"content": [{"token": "x", "logprob": value} for value in log_probs]}
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text, **message},
        "finish_reason": finish_reason,
        "logprobs": tokens,
    }
    return {"object": "chat.completion", "model": model, "choices": [choice]}


def say(request: BaseHTTPRequestHandler, status: int, content: Any, **headers: str) -> None:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    request.send_response(status)
    for name, value in {"content-type": "application/json", "content-length": str(len(body)), **headers}.items():
        request.send_header(name.replace("_", "-"), value)
    request.end_headers()
    request.wfile.write(body)


class Server:
    """Answers questions as `handle` says; remembers them."""

    def __init__(self) -> None:
        self.handle: Handle = lambda _, request, __: say(request, 200, completion())
        self.models: list[str] = [MODEL]
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()

    @property
    def questions(self) -> list[dict[str, Any]]:
        """What was asked after the first question, which finds out what the server can do."""
        return self.asked[1:]

    def get(self, request: BaseHTTPRequestHandler) -> None:
        if request.path == "/v1/models":
            say(
                request, 200, {"object": "list", "data": [{"id": name, "created": time.time()} for name in self.models]}
            )
        elif request.path == "/version":
            say(request, 200, {"version": "0.11"})
        else:
            say(request, 404, {})

    def post(self, request: BaseHTTPRequestHandler) -> None:
        body = json.loads(request.rfile.read(int(request.headers["content-length"])))
        with self._lock:
            self.asked.append(body)
            self.headers.append(dict(request.headers))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            self.handle(self, request, body)
        finally:
            with self._lock:
                self._now -= 1


@contextmanager
def running() -> Iterator[Server]:
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            server.get(self)

        def do_POST(self) -> None:
            server.post(self)

        def log_message(self, *_: object) -> None:
            pass

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    listening.daemon_threads = True
    server.url = f"http://127.0.0.1:{listening.server_address[1]}/v1"
    thread = threading.Thread(target=listening.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        listening.shutdown()
        thread.join()
        listening.server_close()
