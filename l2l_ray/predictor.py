"""Use a finished run: photos and texts in, masks out, each with its confidence and the prior behind it.

The same steps as evaluation: the frozen MLLM is asked, with SAM where that draws masks, its answer becomes a proposal,
the run's best teacher (chosen on val) predicts on the grid, and the logits are brought to the image's own size. No
selector is involved: it decides what to train on, not what to answer. A folder of results is
`predictions.PredictionFolder`; over HTTP it answers in `serving/`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from l2l_ray.confidence import prediction_confidence
from l2l_ray.config import PriorConfig, RunConfig, toy_answers
from l2l_ray.data.hints import read_hint
from l2l_ray.data.images import Pixels, squashed
from l2l_ray.data.native_size import grid_logits_to_native
from l2l_ray.data.pixels import read_rgb
from l2l_ray.device import DeviceFailed, no_loading_bars, pick_device
from l2l_ray.errors import CheckpointError, DataError, L2LError, one_line
from l2l_ray.loop.inference.asking import answer_pictures, draw_pictures
from l2l_ray.loop.inference.inputs import Guide, read_known_scores
from l2l_ray.loop.inference.networks import load_segmenter
from l2l_ray.loop.inference.teacher import predict
from l2l_ray.loop.state.position import Position
from l2l_ray.loop.state.run_folder import RunFolder, open_run
from l2l_ray.loop.state.version_record import TEACHER
from l2l_ray.predictions import FailedPrediction, Prediction
from l2l_ray.prior.hint import at_points, prior_of_hint
from l2l_ray.prior.loading import PriorModels
from l2l_ray.prior.proposal import Proposer
from l2l_ray.prior.reply import MaskModel, MllmIdentity, PictureMllm, Reply, make_prior, with_masks
from l2l_ray.saved_model import WEIGHTS, Facts, fetch, open_model, push, save_model
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.types import Hint, PhotoText, Prior

logger = logging.getLogger(__name__)

_SAVED_AGAIN = "download it again, or save it again with `l2l save`"  # the remedy for a model that cannot be read
T = TypeVar("T")
_OPEN_AT_ONCE = 8  # photos in memory: one of 50 megapixels takes 150 MB


class Predictor:
    """A trained model, loaded once. Use `Predictor.from_run` or `Predictor.from_pretrained`.

    Args:
        config: The run's config.
        segmenter: With weights, on its device.
        models: The frozen MLLM of the same config, with SAM where that draws masks, or whoever asks them.
        facts: Whose version it is, and what else a saved model tells.
        drawn: Folder of the run's own drawn data, where there is any: pictures in it are not strange to it.
    """

    def __init__(
        self,
        config: RunConfig,
        segmenter: Segmenter,
        models: PriorModels,
        facts: Facts,
        drawn: Path | None = None,
    ) -> None:
        self.method, self.version = facts.method, facts.version
        self._facts = facts
        self._config = config
        self._segmenter = segmenter.eval()
        self.models = models
        self._guide = Guide(Proposer(config.prior), segmenter.grid, facts.known_scores)
        self._strange = toy_answers(config)  # said at the first picture that is not drawn
        self._drawn = drawn

    @classmethod
    def from_run(
        cls,
        checkpoint: str | Path,
        mllm: PictureMllm | None = None,
        device: str = "auto",
        sam: MaskModel | None = None,
        loaded: PriorModels | None = None,
    ) -> Predictor:
        """Load the main method's version that was best on val, or the version that is named.

        Args:
            checkpoint: A run's folder, or that of a version in it, `train/l2l-v0002`.
            mllm: Whoever answers for the MLLM of the run's config; None = it is loaded here.
            device: torch device; of the MLLM, too, where its config names none. "auto" = cuda when there is one.
            sam: Whoever answers for its SAM, where it has one; None = it is loaded here.
            loaded: In place of both, the models of another predictor: those that answer the same are not loaded again.
        Raises:
            ConfigError: There is no run in this folder.
            CheckpointError: The run is not finished, or its weights cannot be read.
            DataError: The priors of its labeled set cannot be read.
        """
        run, method, version = run_and_version(Path(checkpoint))
        config = run.config
        with no_loading_bars():
            weights = run.version_dir(method, version) / TEACHER
            segmenter = load_segmenter(config.segmenter, weights, pick_device(device))
            known = read_known_scores(run.priors_path("labeled"))
            models = _loaded_models(config.prior, device, mllm, sam, loaded)
        drawn = run.path.absolute().parent / "cache" / "data"
        return cls(config, segmenter, models, Facts.of_run(run, method, version, known), drawn)

    @classmethod
    def from_pretrained(
        cls, source: str | Path, mllm: PictureMllm | None = None, device: str = "auto", revision: str | None = None
    ) -> Predictor:
        """Load a saved model: a folder, or what the model hub has under an id.

        Args:
            source: What `save_pretrained` or `l2l save` wrote, or `owner/name` on the hub.
            mllm: As in `from_run`.
            device: As in `from_run`.
            revision: Branch, tag or commit on the hub.
        Raises:
            CheckpointError: There is none, or its weights cannot be read.
            ConfigError: The MLLM that it names cannot be loaded.
        """
        folder = fetch(str(source), revision)
        config, facts = open_model(folder)
        with no_loading_bars():
            segmenter = load_segmenter(config.segmenter, folder / WEIGHTS, pick_device(device), _SAVED_AGAIN)
            models = _loaded_models(config.prior, device, mllm)
        return cls(config, segmenter, models, facts)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the model as a folder of its own; see `saved_model`.

        Raises:
            CheckpointError: It cannot be written.
            ConfigError: The folder holds anything but an earlier model.
        """
        save_model(Path(folder), self._segmenter, self._config, self._facts)

    def push_to_hub(self, repo_id: str, private: bool | None = None) -> str:
        """Put the model on the model hub; return the address of the commit.

        Raises:
            CheckpointError: The hub does not take it.
        """
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder)
            return push(Path(folder), repo_id, private)

    def predict(self, image_path: str | Path, expression: str, hint: Mapping[str, Any] | None = None) -> Prediction:
        """Segment what `expression` refers to.

        Args:
            image_path: Any file that Pillow reads; it is turned as EXIF says, and the mask is of the turned picture.
            expression: Cut at `data.max_words` words, and for the segmenter at `segmenter.max_text_tokens` tokens, as
                in training; a cut at tokens is logged.
            hint: Where the referent is, as a row of own data says it, px: `{"box": [x, y, width, height]}`,
                `{"points": [[x, y], ...]}` or both. A box takes the MLLM's place, points choose among its boxes.

        Raises:
            DataError: The image cannot be read, the expression is empty, or the hint does not fit the image.
        """
        opened = self._open(PhotoText(_path(image_path), expression, hint), self._photo)
        return self._prediction(opened, self._priors([opened])[0])

    def predict_with(self, image_path: str | Path, expression: str, prior: Prior) -> Prediction:
        """Segment what `expression` refers to, with a prior that is known already: no language model is asked.

        Raises:
            DataError: The image cannot be read, or the expression is empty.
        """
        return self._prediction(self._open(PhotoText(_path(image_path), expression), self._photo), prior)

    def predict_many(
        self, items: Iterable[PhotoText], pictures: Mapping[Path, Image.Image] | None = None
    ) -> Iterator[Prediction | FailedPrediction]:
        """Segment many, with the models that are loaded; yields one result per item, in order.

        What cannot be answered fails alone, with its reason; nothing is raised for it. A few photos are open at a time,
        and one that several of these few items are about once.

        Args:
            items: Photos and texts.
            pictures: Photos that are open already, by `image_path`, RGB and as people see them; others are read.
        Raises:
            ConfigError: The MLLM does not fit into memory.
            DeviceFailed: A device failed: what comes after would fail, too.

        Example: `for result in predictor.predict_many([PhotoText(Path("12.jpg"), "left man")]): folder.add(result)`
        """
        waiting = iter(items)
        while chunk := list(islice(waiting, num_at_once(self._config))):
            yield from self._answer(chunk, pictures or {})

    def _answer(
        self, items: Sequence[PhotoText], pictures: Mapping[Path, Image.Image]
    ) -> Iterator[Prediction | FailedPrediction]:
        """Yield the results of a few items; the models are asked about those that can be opened at once."""
        photo = cache(lambda path: self._photo(path, pictures.get(path)))
        tried = [self._attempt(partial(self._open, item, photo), item) for item in items]
        opened = [one for one in tried if isinstance(one, _Opened)]
        priors = self._priors(opened)
        logits: list[Tensor | None] = [None] * len(opened)
        with suppress(Exception):  # whoever broke the batch fails alone
            logits = list(self._logits(opened, priors))
        found = dict(zip(map(id, opened), zip(priors, logits, strict=True), strict=True))
        for item, one in zip(items, tried, strict=True):
            if isinstance(one, FailedPrediction):
                yield one
            else:
                yield self._attempt(partial(self._prediction, one, *found[id(one)]), item)

    def _priors(self, opened: Sequence[_Opened]) -> list[Prior]:
        """Ask about a few; whom a model cannot answer gets a prior that says so, and a mask without its help."""
        asked = [one for one in opened if one.is_asked]
        pictures, texts = [one.picture for one in asked], [one.expression for one in asked]
        replies = iter(answer_pictures(self.models.mllm, pictures, texts))
        priors = [self._prior(one, next(replies) if one.is_asked else None) for one in opened]
        if not self.models.draws:
            return priors
        rows = [row for row, prior in enumerate(priors) if prior.says_where]
        pictures, found = [opened[row].picture for row in rows], [priors[row] for row in rows]
        for row, reply in zip(rows, draw_pictures(self.models.sam, pictures, found), strict=True):
            priors[row] = with_masks(priors[row].key, priors[row], reply)
        return priors

    @staticmethod
    def _attempt(act: Callable[[], T], item: PhotoText) -> T | FailedPrediction:
        try:
            return act()
        except torch.AcceleratorError as error:  # not of this item: nothing can be computed on the device any more
            raise DeviceFailed(
                f"the device of the segmenter failed: {one_line(error)}; expected a working one: start again"
            ) from error
        except Exception as error:
            return FailedPrediction(item, _reason(error))

    def _photo(self, path: Path, picture: Image.Image | None = None) -> _Photo:
        picture = picture or read_rgb(path, upright=True)
        return _Photo(picture, squashed(picture, self._config.segmenter.image_size))

    def _open(self, item: PhotoText, photo: Callable[[Path], _Photo]) -> _Opened:
        if not isinstance(item.expression, str):
            raise DataError(f"the expression must be text, got {type(item.expression).__name__}; say what to look for")
        words = item.expression.split()[: self._config.data.max_words]
        if not words:
            raise DataError(
                f"the expression is empty, got {item.expression!r}; say what to look for, e.g. 'left red circle'"
            )
        found = photo(item.image_path)
        is_drawn = self._drawn is not None and item.image_path.absolute().is_relative_to(self._drawn)
        if self._strange and not is_drawn:
            logger.warning("note: %s", self._strange)
            self._strange = None
        size = found.picture.size
        hint = None if item.hint is None else read_hint(dict(item.hint), *size).fractions(*size)
        if said := self.cut(item.expression):
            logger.warning("note: %s", said)
        return _Opened(item, " ".join(words), found, hint)

    def cut(self, expression: str) -> str:
        """Return what to tell about an expression that is not read to its end; "" = it is."""
        words, most_words, tokenizer = expression.split(), self._config.data.max_words, self._segmenter.text.tokenize
        read, whole = " ".join(words[:most_words]), " ".join(words)
        num_read, num = tokenizer.num_tokens([read, whole])
        most = tokenizer.max_text_tokens
        if num_read > most:
            part, larger = f"the segmenter reads the first {most} of the {num} tokens", "segmenter.max_text_tokens"
        elif len(words) > most_words:
            part, larger = f"the models read the first {most_words} of the {len(words)} words", "data.max_words"
        else:
            return ""
        return f"{part} of {whole!r}; say it in fewer words, or train with a larger {larger}"

    def _logits(self, opened: Sequence[_Opened], priors: Sequence[Prior]) -> Float[Tensor, "B G G"]:
        images = torch.from_numpy(np.stack([one.photo.square for one in opened])).float().div_(255)
        inputs = self._guide.inputs(images, [one.expression for one in opened], priors)
        device = next(self._segmenter.parameters()).device
        return predict(self._segmenter, inputs.to(device), self._config.loop.autocast).cpu()

    def _prediction(self, opened: _Opened, prior: Prior, logits: Float[Tensor, "G G"] | None = None) -> Prediction:
        logits = self._logits([opened], [prior])[0] if logits is None else logits
        width, height = opened.picture.size
        probs = grid_logits_to_native(logits, height, width).sigmoid().numpy()
        pixels = np.asarray(opened.picture)
        facts = self._facts
        confidence = prediction_confidence(facts.curve, logits, bool((probs > 0.5).any()))
        return Prediction(opened.item, opened.expression, pixels, probs, prior, facts.method, facts.version, confidence)

    def _prior(self, opened: _Opened, reply: Reply | None) -> Prior:
        if reply is None:
            assert opened.hint is not None, "without a box of the user's the MLLM is asked"
            return prior_of_hint(opened.hint, "", opened.expression)
        prior = make_prior("", reply, MllmIdentity.of(self.models.mllm), *opened.picture.size)
        return prior if opened.hint is None else at_points(prior, opened.hint, "", opened.expression)


@dataclass(frozen=True)
class _Photo:
    """An open photo, and as the segmenter sees it."""

    picture: Image.Image
    square: Pixels


@dataclass(frozen=True)
class _Opened:
    """An item whose photo is open and whose text has words."""

    item: PhotoText
    expression: str
    photo: _Photo
    hint: Hint | None

    @property
    def picture(self) -> Image.Image:
        return self.photo.picture

    @property
    def is_asked(self) -> bool:
        """Whether the MLLM is asked: a user's box takes its place."""
        return self.hint is None or self.hint.box_xyxy_frac is None


def save_version(checkpoint: Path, folder: Path) -> Segmenter:
    """Write a run's best version, or one that is named, as a model's folder; return its segmenter. No MLLM is loaded.

    Raises:
        ConfigError: There is no run, or the folder holds anything but an earlier model.
        CheckpointError: The run is not finished, or something cannot be read or written.
    """
    run, method, version = run_and_version(checkpoint)
    weights = run.version_dir(method, version) / TEACHER
    segmenter = load_segmenter(run.config.segmenter, weights, pick_device("cpu"))
    known = read_known_scores(run.priors_path("labeled"))
    save_model(folder, segmenter, run.config, Facts.of_run(run, method, version, known))
    return segmenter


def _loaded_models(
    config: PriorConfig,
    device: str,
    mllm: PictureMllm | None,
    sam: MaskModel | None = None,
    loaded: PriorModels | None = None,
) -> PriorModels:
    placed = config.model_copy(update={"device": device} if config.device == "auto" else {})
    models = PriorModels(placed, mllm, sam) if loaded is None else loaded.changed_to(placed)
    models.load()
    return models


def num_at_once(config: RunConfig) -> int:
    """Return how many items are open and asked about together; many items in such parts get the same answers."""
    return min(_OPEN_AT_ONCE, config.prior.batch_size)


def _path(image_path: str | os.PathLike[str]) -> Path:
    """Check what somebody gives as a photo's path, perhaps the picture itself.

    Raises:
        DataError: It is no path.
    """
    if not isinstance(image_path, str | os.PathLike):
        raise DataError(
            f"image_path must be the path of a picture, got {type(image_path).__name__}; save the picture as PNG, or "
            "give open ones to `predict_many`"
        )
    return Path(image_path)


def run_and_version(checkpoint: Path) -> tuple[RunFolder, str, int]:
    """Return the run, method and version that a checkpoint names; see `Predictor.from_run`.

    Raises:
        ConfigError: There is no run in this folder.
        CheckpointError: The run has chosen no version yet, or the version has no weights.
    """
    named = Position.named(checkpoint.name) if checkpoint.parent.name == "train" else None
    is_version = named is not None and not named.step  # a training state is none
    run_dir = checkpoint.parent.parent if is_version else checkpoint
    run = open_run(run_dir)
    method, version = (str(named.method), named.version) if named and is_version else run.chosen_version()
    weights = run.version_dir(method, version) / TEACHER
    if not weights.is_file():
        raise CheckpointError(f"{weights} not found; give the folder of a finished run, or of a version that is there")
    return run, method, version


def _reason(error: Exception) -> str:
    """Return why an item failed, in one line; what nobody raised on purpose with its kind."""
    text = " ".join(str(error).split())
    return text if isinstance(error, L2LError) else f"{type(error).__name__}: {text}; try a smaller or a simpler one"
