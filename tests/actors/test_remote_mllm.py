"""A language model behind its deployment that does not answer: its batch fails at once and as a whole."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest
from PIL import Image
from ray import serve

from l2l_ray.actors.connection import connected
from l2l_ray.actors.remote_mllm import RemoteMllm
from l2l_ray.config import ClusterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.asking import answer_pictures
from l2l_ray.prior.prompt import prompt_for
from l2l_ray.prior.reply import MllmIdentity, Reply
from tests.ray_runs import wait_for

TEXTS = ["a", "b", "c", "d"]


@pytest.mark.slow
def test_a_batch_without_an_answer_is_asked_once_and_each_question_of_it_fails(ray_local: str) -> None:
    class Mute:
        """Stands for a language model that answers no question, and fails at some."""

        def __init__(self) -> None:
            self.asked: list[list[str]] = []
            self.num_cancelled = 0

        async def identity(self, checkpoint: Path) -> MllmIdentity:
            return MllmIdentity("f" * 16, prompt_for("qwen3_vl"))

        async def ask(self, images: list[Image.Image], texts: list[str], fingerprint: str) -> list[Reply]:
            self.asked.append(texts)
            if "poison" in texts:
                raise ConfigError("the device of the language model failed")
            try:
                return await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                self.num_cancelled += 1
                raise

        async def seen(self) -> tuple[list[list[str]], int]:
            return self.asked, self.num_cancelled

    pictures = [Image.new("RGB", (32, 24))] * len(TEXTS)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with connected(ClusterConfig(address=ray_local)):
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        try:
            handle = serve.run(serve.deployment(name="Mute", ray_actor_options={"num_cpus": 0.1})(Mute).bind())
            left_s = 30.0
            remote = RemoteMllm(handle, Path("/runs/mine"), lambda: left_s)
            poisoned = ["poison", *TEXTS[1:]]
            failures = [reply.failure for reply in answer_pictures(remote, pictures, poisoned)]
            assert failures == ["model: ConfigError: the device of the language model failed"] * len(TEXTS)
            left_s = 3.0
            failures = [reply.failure for reply in answer_pictures(remote, pictures, TEXTS)]
            assert failures == ["hung: the language model gave no answer in the 3.0 s that were left"] * len(TEXTS)
            wait_for(lambda: handle.seen.remote().result() == ([poisoned, TEXTS], 1), "the end of the question")
            left_s = 0.0
            assert all(reply.failure for reply in answer_pictures(remote, pictures, TEXTS))
            assert handle.seen.remote().result() == ([poisoned, TEXTS], 1), "nobody would wait for an answer"
        finally:
            serve.shutdown()
