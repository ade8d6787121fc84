"""The prior over HTTP: what a server can do wrong, said by a small real server, and a real server of transformers."""

from __future__ import annotations

import base64
import io
import math
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.connection import KEY_VARIABLE
from l2l_ray.prior.http import HttpPrior
from l2l_ray.prior.identity import EMBEDDED_FOLDER
from l2l_ray.prior.loading import PriorModels, identify_prior, load_prior
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.reply import MllmIdentity, failure_kind, is_unanswered, make_prior
from l2l_ray.prior.sam import Sam
from l2l_ray.refshapes.expressions import expressions_for
from l2l_ray.refshapes.scenes import render_scene
from tests.prior.chat_server import MODEL, TEXT, Handle, Server, completion, running, say
from tests.tiny_sams import SAMS

GRAY = Image.new("RGB", (60, 40), (90, 90, 90))


@pytest.fixture
def server() -> Iterator[Server]:
    with running() as found:
        yield found


def config(server: Server, **fields: Any) -> PriorConfig:
    return PriorConfig(**{"url": server.url, "model": MODEL, "timeout_s": 5, "batch_size": 4, **fields})


def loaded(server: Server, **fields: Any) -> HttpPrior:
    return HttpPrior.load(config(server, **fields))


def expression_of(body: dict[str, Any]) -> str:
    return str(body["messages"][0]["content"][1]["text"])


def sent_picture(body: dict[str, Any]) -> Image.Image:
    url = body["messages"][0]["content"][0]["image_url"]["url"]
    return Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,"))))


def test_a_question_becomes_a_reply_and_a_prior(server: Server) -> None:
    prior = loaded(server)
    reply = prior.ask([GRAY], ["the cat"])[0]
    assert reply.texts == (TEXT,) and reply.mean_log_probs == pytest.approx((-0.2,))
    found = make_prior("k", reply, prior, 60, 40)
    assert found.boxes_xyxy_frac == ((0.1, 0.2, 0.5, 0.6),) and found.score == pytest.approx(math.exp(-0.2))
    (body,) = server.questions
    assert body["temperature"] == 0 and body["model"] == MODEL and body["logprobs"] is True
    assert body["response_format"]["type"] == "json_schema" and '"the cat"' in expression_of(body)


def test_pictures_are_sent_as_they_were_decoded(server: Server) -> None:
    picture = Image.new("RGB", (9, 5), (1, 2, 3))
    loaded(server).ask([picture], ["x"])
    sent = sent_picture(server.questions[0])
    assert sent.size == (9, 5) and sent.tobytes() == picture.tobytes()


def test_a_picture_is_made_ready_once_for_all_questions_about_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    prior, saved, save = loaded(server, num_samples=3), [], Image.Image.save

    def counted(image: Image.Image, *args: Any, **kwargs: Any) -> None:
        saved.append(image.size)
        save(image, *args, **kwargs)

    monkeypatch.setattr(Image.Image, "save", counted)
    other = Image.new("RGB", (9, 5), (1, 2, 3))
    replies = prior.ask([GRAY, other, GRAY], ["x", "y", "z"])
    assert sorted(saved) == [(9, 5), (60, 40)]
    assert [(reply.seen_width_px, reply.seen_height_px) for reply in replies] == [(60, 40), (9, 5), (60, 40)]
    sizes = {expression_of(body): sent_picture(body).size for body in server.questions}
    assert [size for text, size in sorted(sizes.items())] == [(60, 40), (9, 5), (60, 40)] and len(server.questions) == 9


def test_pictures_for_answers_in_pixels_have_sides_that_the_model_keeps(server: Server) -> None:
    name = "Qwen/Qwen2.5-VL-7B-Instruct"
    server.models = [name]
    server.handle = lambda _, request, __: say(
        request, 200, completion('[{"bbox_2d": [0, 0, 280, 154], "label": ""}]', name)
    )
    prior = loaded(server, model=name)
    reply = prior.ask([Image.new("RGB", (570, 300))], ["x"])[0]
    assert (reply.seen_width_px, reply.seen_height_px) == (560, 308)
    assert make_prior("k", reply, prior, 570, 300).boxes_xyxy_frac == ((0, 0, 0.5, 0.5),)


def test_small_pictures_are_enlarged_to_the_floor_of_image_tokens(server: Server) -> None:
    reply = loaded(server, min_image_tokens=100).ask([Image.new("RGB", (200, 100))], ["x"])[0]
    assert (reply.seen_width_px, reply.seen_height_px) == (453, 226)  # 100 squares of 32 px
    large = loaded(server, min_image_tokens=100).ask([Image.new("RGB", (4000, 1000))], ["x"])[0]
    assert large.seen_width_px * large.seen_height_px == pytest.approx(2048 * 28 * 28, rel=0.01)


def test_a_floor_above_what_is_sent_is_refused_before_the_server_is_asked(server: Server) -> None:
    with pytest.raises(ConfigError, match="prior.min_image_tokens is 4096.*set it to 1568 or less"):
        loaded(server, min_image_tokens=4096)
    assert not server.asked


@pytest.mark.parametrize("photo", [(40, 30), (640, 480), (4000, 3000)])
def test_pixels_are_those_of_the_picture_that_was_sent(server: Server, photo: tuple[int, int]) -> None:
    def quarter(_: Server, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        width, height = sent_picture(body).size
        say(request, 200, completion(f'[{{"bbox_2d": [0, 0, {width // 2}, {height // 2}], "label": "x"}}]'))

    server.handle = quarter
    prior = loaded(server, coordinates="pixels")
    found = make_prior("k", prior.ask([Image.new("RGB", photo)], ["x"])[0], prior, *photo)
    assert found.boxes_xyxy_frac == ((0, 0, 0.5, 0.5),)


def test_an_answer_without_its_log_probabilities_is_asked_again(server: Server) -> None:
    prior, several = loaded(server), loaded(server, num_samples=3)
    for log_probs in (None, (math.nan,)):
        server.handle = lambda _, request, __, said=log_probs: say(request, 200, completion(log_probs=said))
        found = make_prior("k", prior.ask([GRAY], ["x"])[0], prior, 60, 40)
        assert found.failure.startswith("server: an answer without log-probabilities") and is_unanswered(found.failure)
    for text, finish_reason in (("", "stop"), ("", "length")):  # nothing to be sure of: an outcome
        said = completion(text, log_probs=None, finish_reason=finish_reason)
        server.handle = lambda _, request, __, said=said: say(request, 200, said)
        found = make_prior("k", prior.ask([GRAY], ["x"])[0], prior, 60, 40)
        assert found.failure and not is_unanswered(found.failure)
    server.handle = lambda _, request, __: say(request, 200, completion(log_probs=None))
    assert make_prior("k", several.ask([GRAY], ["x"])[0], several, 60, 40).score == 1, "they agree; no more is needed"


def test_a_run_is_led_to_the_server(server: Server) -> None:
    found = load_prior(config(server))
    assert isinstance(found, HttpPrior) and identify_prior(config(server)) == MllmIdentity.of(found)
    with pytest.raises(ConfigError, match="prior.model is 'embedded'"):
        load_prior(config(server, model="embedded"))


def test_sam_draws_in_the_process_that_asks_the_server(server: Server, tmp_path: Path) -> None:
    SAMS["sam2"](tmp_path)
    with_sam = config(server, proposal="sam", sam_model=str(tmp_path), device="cpu", dtype="float32")
    models = PriorModels(with_sam)
    models.load()
    assert isinstance(models.mllm, HttpPrior) and isinstance(models.sam, Sam)
    identity = models.identity()
    assert identity == identify_prior(with_sam) and identity.sam
    assert identity.fingerprint == identify_prior(config(server)).fingerprint, "SAM is no part of what a server says"
    prior = make_prior("k", models.mllm.ask([GRAY], ["cat"])[0], identity, *GRAY.size)
    num_requests = len(server.asked)
    (drawn,) = models.sam.draw([GRAY], [prior])
    assert len(drawn.masks) == 1 and len(server.asked) == num_requests


@pytest.mark.parametrize("status", [429, 500, 503, 529])
def test_a_busy_server_is_asked_again(server: Server, status: int) -> None:
    prior = loaded(server)
    waits: list[float] = []

    def once(server: Server, request: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        waits.append(time.monotonic())
        say(request, status, {"error": "busy"}, retry_after="1") if len(waits) == 1 else say(request, 200, completion())

    server.handle = once
    assert prior.ask([GRAY], ["x"])[0].texts == (TEXT,)
    assert waits[1] - waits[0] >= 1  # as Retry-After says


def hangs(server: Server, request: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    time.sleep(1.5)


def cut(server: Server, request: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    request.send_response(200)
    request.send_header("content-length", "1000")
    request.end_headers()
    request.wfile.write(b'{"choices": [{"mess')
    request.close_connection = True


WRONG: dict[str, tuple[Handle, str]] = {
    "hang": (hangs, "Timeout|timed out"),
    "cut": (cut, "Incomplete|broken"),
    "html": (lambda _, request, __: say(request, 200, "<html>hello</html>"), "no JSON but '<html>"),
    "refused": (lambda _, request, __: say(request, 400, {"error": "too many tokens"}), "HTTP 400.*too many tokens"),
    "other model": (lambda _, request, __: say(request, 200, completion(model="gpt-9")), "an answer of 'gpt-9'"),
    "no choices": (lambda _, request, __: say(request, 200, {"choices": []}), "no chat completion"),
    "a list": (lambda _, request, __: say(request, 200, []), "no chat completion"),
    "no text": (lambda _, request, __: say(request, 200, completion(None)), "without text"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_one_bad_answer_fails_alone(server: Server, wrong: str) -> None:
    prior = loaded(server, timeout_s=0.5 if wrong == "hang" else 5)
    handle, words = WRONG[wrong]

    def bad_for_one(server: Server, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if "bad" in expression_of(body):
            handle(server, request, body)
        else:
            say(request, 200, completion())

    server.handle = bad_for_one
    good, bad, also_good = prior.ask([GRAY] * 3, ["good", "bad", "also good"])
    assert good.texts == also_good.texts == (TEXT,)
    found = make_prior("k", bad, prior, 60, 40)
    assert not found.boxes_xyxy_frac and found.failure.startswith("server: ")
    assert re.search(words, found.failure), found.failure


def test_no_more_requests_at_once_than_said(server: Server) -> None:
    prior = loaded(server, batch_size=3)

    def slow(_: Server, request: BaseHTTPRequestHandler, __: dict[str, Any]) -> None:
        time.sleep(0.05)
        say(request, 200, completion())

    server.handle = slow
    prior.ask([GRAY] * 9, [str(number) for number in range(9)])
    assert server.most_at_once == 3


def test_a_server_without_log_probabilities_needs_several_answers(server: Server) -> None:
    def plain(_: Server, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        if "logprobs" in body or "response_format" in body:
            say(request, 422, {"error": "unsupported fields"})
        else:
            say(request, 200, completion(log_probs=None))

    server.handle = plain
    with pytest.raises(ConfigError, match="tells no log-probabilities.*prior.num_samples to 3"):
        loaded(server)
    prior = loaded(server, num_samples=3)
    server.asked.clear()
    found = make_prior("k", prior.ask([GRAY], ["x"])[0], prior, 60, 40)
    assert found.score == 1 and len(found.boxes_xyxy_frac) == 3  # three equal answers agree
    assert len({body["seed"] for body in server.asked}) == 3
    assert {body["temperature"] for body in server.asked} == {0.7}


def test_a_name_that_is_not_served_is_refused_with_those_that_are(server: Server) -> None:
    server.models = ["llama", "qwen"]
    server.handle = lambda _, request, __: say(request, 404, {"error": "no such model"})
    with pytest.raises(ConfigError, match="'Qwen/Qwen3-VL-8B-Instruct': HTTP 404.*it serves llama, qwen"):
        loaded(server)
    server.handle = lambda _, request, __: say(request, 200, completion(model="qwen"))
    with pytest.raises(ConfigError, match="an answer of 'qwen', not of.*it serves llama, qwen"):
        loaded(server)


def test_a_server_that_lists_others_is_said(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.models = ["llama"]
    loaded(server)
    assert "answers as Qwen/Qwen3-VL-8B-Instruct, but lists llama" in caplog.text


def test_a_key_comes_from_the_environment_alone(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def locked(server: Server, request: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        known = request.headers.get("authorization") == "Bearer sesame"
        say(request, 200, completion()) if known else say(request, 401, {"error": "who are you"})

    server.handle = locked
    with pytest.raises(ConfigError, match=f"wants a key.*{KEY_VARIABLE}"):
        loaded(server)
    monkeypatch.setenv(KEY_VARIABLE, "sesame")
    prior = loaded(server)
    assert prior.ask([GRAY], ["x"])[0].texts == (TEXT,)
    assert "sesame" not in prior.config.model_dump_json()


def test_thoughts_are_off_where_the_server_takes_that(server: Server) -> None:
    prior = loaded(server)
    prior.ask([GRAY], ["x"])
    assert server.questions[0]["chat_template_kwargs"] == {"enable_thinking": False}

    def strict(_: Server, request: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        unknown = "chat_template_kwargs" in body
        say(request, 400, {"error": "unknown field"}) if unknown else say(request, 200, completion())

    server.handle = strict
    without = loaded(server)
    server.asked.clear()
    assert without.ask([GRAY], ["x"])[0].texts == (TEXT,)
    assert {"logprobs", "response_format"} <= server.asked[0].keys(), "what it does take is asked for"
    assert without.fingerprint != prior.fingerprint


DRAFT = "Let's see. The cup in the middle is around [400, 300, 500, 420], so the left one"
CUT = {
    "a draft": (completion(DRAFT, finish_reason="length"), "cut off"),
    "a whole box": (completion(f'{TEXT[:-1]}, {{"bbox_2d": [1', finish_reason="length"), ""),
    "its end only": (completion(DRAFT), ""),
    "thoughts apart": (completion(None, finish_reason="length", reasoning_content="The left cup is"), "cut off"),
    "under vLLM's name": (completion(None, finish_reason="length", reasoning="[1, 2, 30, 40]"), "cut off"),
    "hidden thoughts": (completion("", finish_reason="length"), "cut off"),
    "thoughts alone": (completion(None, reasoning="There is a cup."), "no answer"),
}


@pytest.mark.parametrize("case", CUT)
def test_a_reply_without_tokens_left_is_believed_only_where_its_answer_is_whole(server: Server, case: str) -> None:
    prior = loaded(server)
    said, kind = CUT[case]
    server.handle = lambda _, request, __: say(request, 200, said)
    assert failure_kind(make_prior("k", prior.ask([GRAY], ["the left cup"])[0], prior, 60, 40).failure) == kind


def test_a_model_that_only_thinks_is_named_at_the_start(server: Server) -> None:
    said = completion(None, finish_reason="length", reasoning_content="The left cup is")
    server.handle = lambda _, request, __: say(request, 200, said)
    with pytest.raises(ConfigError, match="used all 32 tokens.*for reasoning; raise prior.max_new_tokens, or serve it"):
        loaded(server, max_new_tokens=32)


def test_the_identity_is_that_of_what_is_served(server: Server) -> None:
    first, again = loaded(server).fingerprint, loaded(server).fingerprint
    assert first == again and len(first) == 64
    assert loaded(server, max_new_tokens=64).fingerprint != first
    assert loaded(server, timeout_s=9).fingerprint == first


def test_no_server_is_said_with_the_address(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("l2l_ray.prior.connection.NUM_RETRIES", 1)
    with pytest.raises(ConfigError, match="the server at http://127.0.0.1:9/v1 does not answer.*prior.url"):
        loaded(server, url="http://127.0.0.1:9/v1")


def test_an_unknown_family_needs_a_prompt(server: Server) -> None:
    server.models = ["my-model"]
    with pytest.raises(ConfigError, match="prior.prompt"):
        loaded(server, model="my-model")


@pytest.fixture
def transformers_serve(tmp_path: Path) -> Iterator[str]:
    """Give the address of `transformers serve` on the embedded model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, str(Path(__file__).with_name("serve_embedded.py")), str(EMBEDDED_FOLDER), str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, stdout=log, stderr=log) as process:
        try:
            deadline = time.monotonic() + 120
            while not _is_up(port):
                assert process.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.kill()


def _is_up(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/health", timeout=5).ok
    except requests.RequestException:
        return False


def test_a_real_server_answers_as_the_model_in_our_process(transformers_serve: str) -> None:
    pictures, texts = [], []
    for seed in range(3):
        rng = np.random.default_rng([77, seed])
        scene = render_scene(rng, "pretrain", 128)
        pictures.append(Image.fromarray(scene.image))
        texts.append(expressions_for(scene, 0, rng, "refcocog", "pretrain", 1)[0])
    asked = {"model": str(EMBEDDED_FOLDER), "prompt": "qwen", "num_samples": 2, "temperature": 0.01}
    served = HttpPrior.load(PriorConfig(url=transformers_serve, **asked)).ask(pictures, texts)
    here = MllmPrior.load(PriorConfig(dtype="float32")).ask(pictures, texts)
    assert [reply.texts for reply in served] == [reply.texts * 2 for reply in here]


def test_a_busy_moment_at_the_start_does_not_make_it_somebody_else(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, tell, busy = loaded(server).fingerprint, Server.get, iter([503, 429])

    def sometimes(self: Server, request: BaseHTTPRequestHandler) -> None:
        status = next(busy, 0)
        say(request, status, {}, retry_after="0") if status else tell(self, request)

    monkeypatch.setattr(Server, "get", sometimes)
    assert loaded(server).fingerprint == before
