"""An MLLM behind a server that speaks OpenAI's chat completions: vLLM, SGLang, Ray Serve LLM, `transformers serve`.

For models that do not fit beside a segmenter, or whose packages clash with ours. One question is one request, some at a
time; the server puts them into batches. Pictures are sent as this package decoded them, at a size that the server's
model does not change again, so that coordinates in pixels can be read.

- A server that is busy or restarting (429, 500, 502 to 504, 52x, refused connections) is asked again (`connection`). A
  question that still fails, or comes back late, cut, as HTML, from another model or without the log-probabilities that
  the server had at the start, fails alone.
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
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

from PIL import Image

from l2l_ray.config import EMBEDDED, PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.connection import BUSY, KEY_VARIABLE, Server, Unusable
from l2l_ray.prior.prompt import PromptFormat, model_type_of, prompt_for
from l2l_ray.prior.reply import Reply, reading_version
from l2l_ray.prior.sent_size import MOST_PIXELS, SentSize
from l2l_ray.randomness import sample_key

logger = logging.getLogger(__name__)

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
_COMBINATIONS: tuple[tuple[str, ...], ...] = (  # in the order in which they are tried
    ("logprobs", "schema", "no_thoughts"),
    ("logprobs", "schema"),
    ("logprobs", "no_thoughts"),
    ("logprobs",),
    ("schema", "no_thoughts"),
    ("schema",),
    ("no_thoughts",),
    (),
)
_THOUGHTS = "<think>"  # what `answer` takes for reasoning that does not end


@dataclass(frozen=True)
class _Picture:
    """A picture as it is sent, made once for all questions about it."""

    url: str  # its PNG itself
    digest: str  # of the PNG
    size: tuple[int, int]  # px

    @classmethod
    def of(cls, image: Image.Image) -> _Picture:
        content = io.BytesIO()
        image.save(content, "PNG")
        png = content.getvalue()
        url = f"data:image/png;base64,{base64.b64encode(png).decode()}"
        return cls(url, hashlib.sha256(png).hexdigest(), image.size)


@dataclass(frozen=True)
class _Answer:
    text: str
    mean_log_prob: float  # NaN where the server tells none
    is_cut: bool

    @property
    def is_thought(self) -> bool:
        """Whether it is reasoning without an end."""
        return self.text.startswith(_THOUGHTS) and "</think>" not in self.text


class HttpPrior:
    """A model that another process serves. Use `HttpPrior.load`.

    Example: `HttpPrior.load(PriorConfig(url="http://127.0.0.1:8000/v1", model="Qwen/Qwen3-VL-8B-Instruct"))`
    """

    def __init__(self, config: PriorConfig) -> None:
        self.config = config
        self._extras: tuple[str, ...] = ()
        if config.model == EMBEDDED:
            raise ConfigError("prior.url is set and prior.model is 'embedded'; set prior.model to the name it serves")
        model_type = model_type_of(config.model)
        self.prompt: PromptFormat = prompt_for(model_type, config.prompt, config.proposal, config.coordinates)
        self._sizes = SentSize.for_model(model_type, config.prompt, self.prompt.unit, config.min_image_tokens)
        self._server = Server(str(config.url), config.timeout_s)
        self.fingerprint = ""

    @classmethod
    def load(cls, config: PriorConfig) -> HttpPrior:
        """Ask the server what it serves and what it can do.

        Raises:
            ConfigError: It does not answer, does not serve this model, wants a key, tells no confidence, or its model
                has no tokens left for an answer after its thoughts; the key or a setting cannot be one.
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
                config.url, config.model, prior._server.shown(", ".join(sorted(models))),
            )  # fmt: skip
        prior.fingerprint = prior._fingerprint(models.get(config.model, {}))
        return prior

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Answer questions, `prior.batch_size` requests at a time; what cannot be answered fails alone.

        Args:
            images: RGB images of any size.
            expressions: One per image.
        """
        different = {id(image): image for image in images}
        with ThreadPoolExecutor(min(self.config.batch_size, max(1, len(images)))) as pool:
            sent = dict(zip(different, pool.map(self._sent, different.values()), strict=True))
            return list(pool.map(self._reply, [sent[id(image)] for image in images], expressions))

    def _reply(self, picture: _Picture, expression: str) -> Reply:
        samples = self.config.num_samples
        try:
            answers = [self._answer(picture, expression, number) for number in range(samples)]
            if samples == 1:
                _require_score(answers[0])
        except Unusable as error:
            return Reply.failed("server", self._server.shown(error))
        log_probs = tuple(min(answer.mean_log_prob, 0.0) for answer in answers)
        is_cut = tuple(answer.is_cut for answer in answers)
        return Reply(tuple(answer.text for answer in answers), log_probs, *picture.size, is_cut=is_cut)

    def _sent(self, image: Image.Image) -> _Picture:
        """Return a picture as it is sent."""
        image = image.convert("RGB")
        size = self._sizes.of(*image.size)
        return _Picture.of(image if size == image.size else image.resize(size, Image.Resampling.BICUBIC))

    def _answer(self, picture: _Picture, expression: str, number: int) -> _Answer:
        content = [
            {"type": "image_url", "image_url": {"url": picture.url}},
            {"type": "text", "text": self.prompt.question(expression)},
        ]
        is_drawn = self.config.num_samples > 1
        body: dict[str, Any] = {
            "model": self.config.model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": self.config.max_new_tokens,
            "temperature": self.config.temperature if is_drawn else 0.0,
            "seed": sample_key(0, expression, picture.digest, number) % 2**31,
        }
        for extra in self._extras:
            body |= _EXTRAS[extra]
        return _read_answer(self._server.post("/chat/completions", body), self.config.model)

    def _find_extras(self) -> None:
        """Ask a question with everything that we can use, then with less, until the server takes it."""
        probe = _Picture.of(Image.new("RGB", (224, 224), (127, 127, 127)))
        for extras in _COMBINATIONS:
            if "schema" in extras and "bbox_2d" not in self.prompt.template:
                continue
            self._extras = extras
            try:
                answer = self._answer(probe, "gray square", 0)
            except Unusable as error:
                if error.status in (400, 422) and extras:
                    continue
                raise ConfigError(self._no_answer(error)) from None
            if answer.is_cut and answer.is_thought:
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
            return {str(model["id"]): model for model in self._told(f"{self._server.url}/models")["data"]}
        except (KeyError, TypeError):
            return {}

    def _version(self) -> str:
        """Return the server's version, as vLLM tells it; "" where none is told."""
        try:
            return str(self._told(f"{self._server.url.removesuffix('/v1')}/version")["version"])
        except (KeyError, TypeError):
            return ""

    def _told(self, url: str) -> Any:
        """Return what a server says of itself; None where it says nothing, now and always.

        Raises:
            ConfigError: It does not answer now: what it says is part of who it is, so it cannot be left out.
        """
        try:
            return self._server.get(url)
        except Unusable as error:
            if error.status in (0, *BUSY):
                raise ConfigError(self._no_answer(error)) from None
            return None

    def _fingerprint(self, model: dict[str, Any]) -> str:
        # What changes at each start of a server (created, permission ids) says nothing about answers.
        served = {field: model.get(field) for field in ("root", "max_model_len")}
        settings = self.config.model_dump(include={"model", "max_new_tokens", "num_samples", "min_image_tokens"})
        if self.config.num_samples > 1:
            settings["temperature"] = self.config.temperature
        read = reading_version(self.prompt, self.config.num_samples)
        parts = [served, self._version(), self._extras, MOST_PIXELS, asdict(self.prompt), settings, read]
        if self.prompt.unit.span is None:
            parts.append(asdict(self._sizes))
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _no_answer(self, error: Unusable) -> str:
        said = self._server.shown(error)
        if error.status in (401, 403):
            return (
                f"the server at {self.config.url} wants a key ({said}); set the environment variable {KEY_VARIABLE}, "
                "on a cluster for the prior actors, too"
            )
        names = "" if error.status in (0, *BUSY) else self._server.shown(", ".join(sorted(self._models())))
        listed = f"; it serves {names}, of which prior.model has to be one" if names else ""
        return (
            f"the server at {self.config.url} does not answer for {self.config.model!r}: {said}{listed}; expected "
            "OpenAI's chat completions below prior.url: start the server, or correct the address (it often ends in /v1)"
        )


def _read_answer(content: Any, model: str) -> _Answer:
    """Return what a chat completion says.

    Raises:
        Unusable: It is none, or another model's.
    """
    try:
        choice = content["choices"][0]
        message = choice["message"]
        text, thoughts = message["content"], message.get("reasoning") or message.get("reasoning_content")
        is_cut = choice.get("finish_reason") == "length"
        answered = str(content.get("model") or model)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unusable(f"no chat completion but {json.dumps(content)}") from None
    if answered.removeprefix(model).partition("@")[0]:  # transformers adds the revision: name@main
        raise Unusable(f"an answer of {answered!r}, not of {model!r}", 200)
    if not text and (thoughts or is_cut):
        text = f"{_THOUGHTS}{thoughts or ''}"
    if not isinstance(text, str):
        raise Unusable("an answer without text")
    return _Answer(text.strip(), _mean_log_prob(choice), is_cut)


def _require_score(answer: _Answer) -> None:
    """Refuse an answer that may hold a box but tells no confidence in it.

    Raises:
        Unusable: It is one. Where there is no answer in it, that is an outcome of its own.
    """
    if math.isnan(answer.mean_log_prob) and answer.text and not answer.is_thought:
        raise Unusable("an answer without log-probabilities, which the server had at the start", 200)


def _mean_log_prob(choice: dict[str, Any]) -> float:
    try:
        values = [float(token["logprob"]) for token in choice["logprobs"]["content"]]
        return sum(values) / len(values)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return math.nan
