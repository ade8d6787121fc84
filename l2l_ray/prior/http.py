"""An MLLM behind a server that speaks OpenAI's chat completions: vLLM, SGLang, Ray Serve LLM, `transformers serve`.

For models that do not fit beside a segmenter, or whose packages clash with ours. One question is one request, some at a
time; the server puts them into batches. Pictures are sent as this package decoded them, at a size that the server's
model does not change again, so that coordinates in pixels can be read.

- A server that is busy or restarting (429, 5xx, refused connections) is asked again, later each time, and as late as
  its Retry-After says. A question that still fails, or comes back cut, as HTML or from another model, fails alone.
- Log-probabilities, JSON by schema and an answer without thoughts are asked for where the server has them; one question
  at the start finds out. Without log-probabilities the confidence can only be how far several answers agree
  (`prior.num_samples`).
- Thoughts that a server keeps apart count where they are all there is: then the answer is cut off, or there is none.
- The fingerprint covers the served model, the server's version where it tells one, the sizes and the settings. Which
  weights a server holds under a name it does not tell: give other weights another name.

Source: the request is that of OpenAI's API reference, POST /v1/chat/completions; field names are theirs.
`chat_template_kwargs` is vLLM's, SGLang's and that of `transformers serve`; thoughts are `reasoning` or
`reasoning_content` in theirs.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import math
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import compress, product
from typing import Any

import requests
from PIL import Image
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

from l2l_ray.config import EMBEDDED, PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.prompt import PromptFormat, model_type_of, prompt_for
from l2l_ray.prior.reply import Reply, reading_version
from l2l_ray.randomness import sample_key

logger = logging.getLogger(__name__)

KEY_VARIABLE = "L2L_PRIOR_API_KEY"  # never in a config: those are saved and shown
CONNECT_TIMEOUT_S = 10.0
NUM_RETRIES = 6  # with waits of 0, 2, 4, 8, 16 and 32 s; a server that says Retry-After is believed
LONGEST_WAIT_S = 60.0
MOST_PIXELS = 2048 * 28 * 28  # of a picture as it is sent: grounding gains nothing above about 2,000 image tokens
TOKEN_PX = 32  # an image token covers at most such a square, in Qwen3-VL; in others a smaller one
PATCH_PX = 28  # sides are multiples of it where answers are in pixels, so that Qwen2.5-VL resizes no further
_SCHEMA = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "bbox_2d": {"type": "array", "items": {"type": "number"}, "minItems": 4, "maxItems": 4},
            "label": {"type": "string"},
        },
        "required": ["bbox_2d", "label"],
    },
}
_EXTRAS: dict[str, dict[str, Any]] = {
    "logprobs": {"logprobs": True},
    "schema": {"response_format": {"type": "json_schema", "json_schema": {"name": "boxes", "schema": _SCHEMA}}},
    "no_thoughts": {"chat_template_kwargs": {"enable_thinking": False}},  # templates without the switch ignore it
}
_BUSY = (408, 429, 502, 503, 504)
_COMBINATIONS = [tuple(compress(_EXTRAS, kept)) for kept in product((True, False), repeat=len(_EXTRAS))]
_THOUGHTS = "<think>"  # what `answer` takes for reasoning that does not end


class _Unusable(Exception):
    """A server's answer that is none; `status` is its HTTP status, 0 = there was no whole answer."""

    def __init__(self, what: str, status: int = 0) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True)
class _Answer:
    text: str
    mean_log_prob: float  # NaN where the server tells none
    is_cut: bool


class HttpPrior:
    """A model that another process serves. Use `HttpPrior.load`.

    Example: `HttpPrior.load(PriorConfig(url="http://127.0.0.1:8000/v1", model="Qwen/Qwen3-VL-8B-Instruct"))`
    """

    def __init__(self, config: PriorConfig) -> None:
        self.config = config
        self._url = str(config.url).rstrip("/")
        self._extras: tuple[str, ...] = ()
        self._thread = threading.local()
        if config.model == EMBEDDED:
            raise ConfigError("prior.url is set and prior.model is 'embedded'; set prior.model to the name it serves")
        model_type = model_type_of(config.model)
        self.prompt: PromptFormat = prompt_for(model_type, config.prompt, config.proposal, config.coordinates)
        self.fingerprint = ""

    @classmethod
    def load(cls, config: PriorConfig) -> HttpPrior:
        """Ask the server what it serves and what it can do.

        Raises:
            ConfigError: It does not answer, does not serve this model, wants a key, tells no confidence, or its model
                has no tokens left for an answer after its thoughts.
        """
        prior = cls(config)
        if not prior.prompt.uses_chat:
            raise ConfigError(
                f"prior.prompt is {prior.prompt.name!r}, which no chat server can be asked in; leave prior.url out"
            )
        prior._find_extras()
        if "logprobs" not in prior._extras and config.num_samples == 1:
            raise ConfigError(
                f"the server at {config.url} tells no log-probabilities, so one answer has no confidence; set "
                "prior.num_samples to 3 or more, or take a server that has them (vLLM, SGLang)"
            )
        models = prior._models()
        if models and config.model not in models:
            logger.warning(
                "the server at %s answers as %s, but lists %s; is it the right one?",
                config.url, config.model, ", ".join(sorted(models)),
            )  # fmt: skip
        prior.fingerprint = prior._fingerprint(models.get(config.model, {}))
        return prior

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Answer questions, `prior.batch_size` requests at a time; what cannot be answered fails alone.

        Args:
            images: RGB images of any size.
            expressions: One per image.
        """
        sent = [self._sized(image.convert("RGB")) for image in images]
        with ThreadPoolExecutor(min(self.config.batch_size, max(1, len(sent)))) as pool:
            return list(pool.map(self._reply, sent, expressions))

    def _reply(self, image: Image.Image, expression: str) -> Reply:
        content = io.BytesIO()
        image.save(content, "PNG")
        samples = self.config.num_samples
        try:
            answers = [self._answer(content.getvalue(), expression, number) for number in range(samples)]
        except _Unusable as error:
            return Reply.failed("server", error)
        log_probs = tuple(min(answer.mean_log_prob, 0.0) for answer in answers)
        is_cut = tuple(answer.is_cut for answer in answers)
        return Reply(tuple(answer.text for answer in answers), log_probs, *image.size, is_cut=is_cut)

    def _sized(self, image: Image.Image) -> Image.Image:
        """Return a picture as it is sent."""
        width, height = image.size
        area = width * height
        scale = math.sqrt(min(max(area, self.config.min_image_tokens * TOKEN_PX**2), MOST_PIXELS) / area)
        unit = PATCH_PX if self.prompt.unit.span is None else 1
        size = (max(unit, round(width * scale / unit) * unit), max(unit, round(height * scale / unit) * unit))
        return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)

    def _answer(self, png: bytes, expression: str, number: int) -> _Answer:
        picture = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(png).decode()}"}}
        is_drawn = self.config.num_samples > 1
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [
                {"role": "user", "content": [picture, {"type": "text", "text": self.prompt.question(expression)}]}
            ],
            "max_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature if is_drawn else 0.0,
            "seed": sample_key(0, expression, hashlib.sha256(png).hexdigest(), number) % 2**31,
        }
        for extra in self._extras:
            body |= _EXTRAS[extra]
        return _read_answer(self._post(body), self.config.model)

    def _find_extras(self) -> None:
        """Ask a question with everything that we can use, then with less, until the server takes it."""
        probe = io.BytesIO()
        Image.new("RGB", (224, 224), (127, 127, 127)).save(probe, "PNG")
        for extras in _COMBINATIONS:
            if "schema" in extras and "bbox_2d" not in self.prompt.template:
                continue
            self._extras = extras
            try:
                answer = self._answer(probe.getvalue(), "gray square", 0)
            except _Unusable as error:
                if error.status in (400, 422) and extras:
                    continue
                raise ConfigError(self._no_answer(error)) from None
            if answer.is_cut and answer.text.startswith(_THOUGHTS) and "</think>" not in answer.text:
                raise ConfigError(
                    f"{self.config.model!r} at {self.config.url} used all {self.config.max_new_tokens} tokens of its "
                    "first answer for reasoning; raise prior.max_new_tokens, or serve it without thinking"
                )
            if math.isnan(answer.mean_log_prob):
                self._extras = tuple(extra for extra in extras if extra != "logprobs")
            return

    def _models(self) -> dict[str, dict[str, Any]]:
        """Return what the server says of its models, by name; nothing where it has no list."""
        try:
            return {str(model["id"]): model for model in self._told(f"{self._url}/models")["data"]}
        except (KeyError, TypeError):
            return {}

    def _version(self) -> str:
        """Return the server's version, as vLLM tells it; "" where none is told."""
        try:
            return str(self._told(f"{self._url.removesuffix('/v1')}/version")["version"])
        except (KeyError, TypeError):
            return ""

    def _told(self, url: str) -> Any:
        """Return what a server says of itself; None where it says nothing, now and always.

        Raises:
            ConfigError: It does not answer now: what it says is part of who it is, so it cannot be left out.
        """
        try:
            with self._connections(_BUSY) as session:
                return _json(session.get(url, timeout=CONNECT_TIMEOUT_S))
        except _Unusable as error:
            if error.status in _BUSY:
                raise ConfigError(self._no_answer(error)) from None
            return None
        except requests.RequestException as error:
            raise ConfigError(self._no_answer(_Unusable(f"{type(error).__name__}: {error}"))) from None

    def _fingerprint(self, model: dict[str, Any]) -> str:
        # What changes at each start of a server (created, permission ids) says nothing about answers.
        served = {field: model.get(field) for field in ("root", "max_model_len")}
        settings = self.config.model_dump(include={"model", "max_new_tokens", "num_samples", "min_image_tokens"})
        if self.config.num_samples > 1:
            settings["temperature"] = self.config.temperature
        read = reading_version(self.prompt, self.config.num_samples)
        parts = [served, self._version(), self._extras, MOST_PIXELS, asdict(self.prompt), settings, read]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _no_answer(self, error: _Unusable) -> str:
        if error.status in (401, 403):
            return (
                f"the server at {self.config.url} wants a key ({error}); set the environment variable "
                f"{KEY_VARIABLE}, on a cluster for the prior actors, too"
            )
        listed = ", ".join(sorted(self._models())) if error.status and error.status not in _BUSY else ""
        names = f"; it serves {listed}, of which prior.model has to be one" if listed else ""
        return (
            f"the server at {self.config.url} does not answer for {self.config.model!r}: {error}{names}; expected "
            "OpenAI's chat completions below prior.url: start the server, or correct the address (it often ends in /v1)"
        )

    def _post(self, body: dict[str, Any]) -> Any:
        timeouts = CONNECT_TIMEOUT_S, self.config.timeout_s
        try:
            return _json(self._session().post(f"{self._url}/chat/completions", json=body, timeout=timeouts))
        except requests.RequestException as error:
            raise _Unusable(f"{type(error).__name__}: {error}") from None

    def _session(self) -> requests.Session:
        """Return this thread's connections: a session is not made to be shared."""
        if not hasattr(self._thread, "session"):
            self._thread.session = self._connections((*_BUSY, 500))
        session = self._thread.session
        assert isinstance(session, requests.Session)
        return session

    @staticmethod
    def _connections(again: tuple[int, ...]) -> requests.Session:
        """Return connections that ask again after some statuses, and where there is no connection."""
        session = requests.Session()
        retries = Retry(
            total=NUM_RETRIES, read=1, backoff_factor=1, backoff_max=LONGEST_WAIT_S, backoff_jitter=0.5,
            allowed_methods=None, status_forcelist=again, raise_on_status=False,
        )  # fmt: skip
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retries))
        if key := os.environ.get(KEY_VARIABLE):
            session.headers["authorization"] = f"Bearer {key}"
        return session


def _json(response: requests.Response) -> Any:
    """Return what an answer holds.

    Raises:
        _Unusable: Its status is none of success, or it is no JSON.
    """
    if response.status_code != 200:
        raise _Unusable(f"HTTP {response.status_code}: {response.text[:200]}", response.status_code)
    try:
        return response.json()
    except ValueError:
        raise _Unusable(f"no JSON but {response.text[:80]!r}", response.status_code) from None


def _read_answer(content: Any, model: str) -> _Answer:
    """Return what a chat completion says.

    Raises:
        _Unusable: It is none, or another model's.
    """
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text, thoughts = message["content"], message.get("reasoning") or message.get("reasoning_content")
        is_cut = choice.get("finish_reason") == "length"
        answered = str(content.get("model") or model)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise _Unusable(f"no chat completion but {json.dumps(content)[:120]}") from None
    if answered.removeprefix(model).partition("@")[0]:  # transformers adds the revision: name@main
        raise _Unusable(f"an answer of {answered!r}, not of {model!r}", 200)
    if not text and (thoughts or is_cut):
        text = f"{_THOUGHTS}{thoughts or ''}"
    if not isinstance(text, str):
        raise _Unusable("an answer without text")
    return _Answer(text.strip(), _mean_log_prob(choice), is_cut)


def _mean_log_prob(choice: dict[str, Any]) -> float:
    try:
        values = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
        return sum(values) / len(values)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return math.nan
