"""Which images to label next: those of which the labels are doubtful, and that stand for many others like them.

The *doubt* about an image is the sum over its texts of 1 - confidence of the label: the IoU that is missing. Masks that
a person draws take the doubt of their own image away, and part of that about images like it: as much as their features
are alike. Images are chosen together, each for what those before it leave: two that are alike are not both asked for.

    gain(i) = sum over j of doubt(j) * max(0, alike(i, j) - alike(j, whoever was chosen before))

Only the most doubtful images are looked at, `TIMES_MORE` as many as are asked for: of hundreds of images that are all a
little alike, the gain would name those that are most like the rest, however sure their own labels are. Features are the
image encoder's coarsest level, mean over the picture, minus the mean of those images; alike is their cosine, 0 where it
is negative. No truth is read.

Source: facility location as in Wei et al. 2015 (submodular data selection), weighted by doubt; the weights are ours.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from l2l_ray.data.masks import decode
from l2l_ray.data.pixels import read_rgb
from l2l_ray.datatools.export import write_export
from l2l_ray.datatools.sheet import TILE_PX, draw_sheet, outlined
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.files import new_folder, require_new
from l2l_ray.loop.evaluation.committed import last_round, pseudo_mask
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.types import Example, PseudoLabel
from l2l_ray.wording import photo_name

if TYPE_CHECKING:
    from jaxtyping import Float64

logger = logging.getLogger(__name__)

TIMES_MORE, MOST = 5, 2_000  # images that are compared with one another: 70 MB for 2,000


@dataclass(frozen=True)
class Suggestion:
    """An image to label.

    Example: `Suggestion("/photos/12.jpg", 1.7, 4.2, ("left man", "dog"), (7, 8))`
    """

    image: str
    doubt: float  # about its own labels, in IoU: 0 to the number of its texts
    gain: float  # doubt about all labels that it would take away, what those before it do not
    texts: tuple[str, ...]  # the most doubtful first
    sent_ids: tuple[int, ...]


def suggest(run_dir: Path, count: int, decided: Collection[int] = (), device: str = "auto") -> list[Suggestion]:
    """Return the images to label next, the most useful first; fewer where there are not so many.

    Args:
        run_dir: A run with a whole round of labels.
        count: How many, at most `MOST`.
        decided: Sentences that a person has decided about: their labels are not in doubt any more.
        device: Of the image encoder.
    Raises:
        ConfigError: `count` is out of range, or there is no run in this folder.
        DataError: There are no labels, all are decided, or no photo can be read; of several, one that cannot is named.
    """
    if not 1 <= count <= MOST:
        raise ConfigError(f"--count must be 1 to {MOST}, got {count}; write e.g. --count 20")
    found = last_round(run_dir)
    columns = found.columns("sent_id", "confidence")
    confidence_of = dict(zip(columns["sent_id"].tolist(), columns["confidence"].tolist(), strict=True))
    undecided = {sent_id: confidence for sent_id, confidence in confidence_of.items() if sent_id not in decided}
    if not undecided:
        raise DataError(
            f"each of the {len(confidence_of)} labels of {run_dir} was decided on the review page, so none is in "
            "doubt; bring the decisions in by `l2l data import review`, and run again"
        )
    examples = read_examples(found.run.examples_path("unlabeled"))
    place_of = {example.sent_id: place for place, example in enumerate(examples)}
    by_image: dict[int, list[tuple[float, int]]] = defaultdict(list)  # confidence and place of each text
    for sent_id, confidence in undecided.items():
        place = place_of[sent_id]
        by_image[examples[place].image_id].append((confidence, place))
    doubts = {image: sum(1 - confidence for confidence, _ in texts) for image, texts in by_image.items()}
    pool = sorted(doubts, key=lambda image: (-doubts[image], image))[: min(TIMES_MORE * count, MOST)]
    texts_of = [[examples[place] for _, place in sorted(by_image[image])] for image in pool]
    engine = InferenceEngine(found.run.config, found.run.path, device)
    rows = [place_of[texts[0].sent_id] for texts in texts_of]
    seen = engine.each_readable(
        partial(engine.image_features, found.method, found.entries[0].version, "unlabeled"), rows
    )
    features = torch.stack(_readable(seen))
    kept = [place for place, one in enumerate(seen) if not isinstance(one, DataError)]
    pool, texts_of = [pool[place] for place in kept], [texts_of[place] for place in kept]
    return [
        Suggestion(
            image=texts_of[place][0].image_path,
            doubt=doubts[pool[place]],
            gain=gain,
            texts=tuple(text.expression for text in texts_of[place]),
            sent_ids=tuple(text.sent_id for text in texts_of[place]),
        )
        for place, gain in choose(np.array([doubts[image] for image in pool]), features.double().numpy(), count)
    ]


def _readable(seen: Sequence[Tensor | DataError]) -> list[Tensor]:
    """Return what was seen of the photos that can be read; the others are named.

    Raises:
        DataError: None can be.
    """
    errors = [one for one in seen if isinstance(one, DataError)]
    if len(errors) == len(seen):
        raise errors[0]
    for error in errors:
        logger.warning("%s", error)
    return [one for one in seen if not isinstance(one, DataError)]


def choose(
    doubts: Float64[np.ndarray, " N"], features: Float64[np.ndarray, "N C"], count: int
) -> list[tuple[int, float]]:
    """Return up to `count` places with their gain, as chosen one after another; of equal gains the first place.

    Args:
        doubts: Of each image, at least 0.
        features: Of each image.
        count: How many.
    """
    centred = features - features.mean(0)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    units = (centred / np.maximum(lengths, np.finfo(np.float64).tiny)).astype(np.float32)
    alike = np.maximum(units @ units.T, 0)
    np.fill_diagonal(alike, 1)
    doubts, covered = doubts.astype(np.float32), np.zeros(len(doubts), np.float32)
    chosen: list[tuple[int, float]] = []
    for _ in range(min(count, len(doubts))):
        gains = np.maximum(alike - covered, 0) @ doubts
        gains[[place for place, _ in chosen]] = -1
        best = int(gains.argmax())
        chosen.append((best, float(gains[best])))
        covered = np.maximum(covered, alike[best])
    return chosen


def write_suggestions(run_dir: Path, found: Sequence[Suggestion], out: Path) -> Path:
    """Write a list, a sheet of pictures and tasks for Label Studio, with the run's labels drawn in, as a new folder.

    Returns:
        `out`, absolute.
    Raises:
        DataError: Something is there, or it cannot be written.
    """
    out, wanted = require_new(out), {sent_id for one in found for sent_id in one.sent_ids}
    labels = last_round(run_dir)
    label_of = {label.sent_id: label for label in labels.labels() if label.sent_id in wanted}
    example_of = {row.sent_id: row for row in read_examples(labels.run.examples_path("unlabeled"))}
    try:
        with new_folder(out) as folder:
            lines = [json.dumps(asdict(one), ensure_ascii=False) for one in found]
            (folder / "suggestions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            tiles = [_tile(example_of[one.sent_ids[0]], label_of[one.sent_ids[0]]) for one in found]
            dataset = labels.run.config.data.dataset
            titles = [f"{photo_name(one.image, dataset)}: {' / '.join(one.texts)}" for one in found]
            draw_sheet(titles, tiles).save(folder / "sheet.png")
            masks = [pseudo_mask(example_of[i], label_of[i], labels.about) for one in found for i in one.sent_ids]
            write_export(masks, "labelstudio", folder / "labelstudio", labels.about)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error}; choose another --out") from error
    return out


def _tile(example: Example, label: PseudoLabel) -> Image.Image:
    """Return a photo with its most doubtful label outlined."""
    picture = read_rgb(example.image_path)
    picture.thumbnail((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
    return outlined(picture, decode(pseudo_mask(example, label, {}).rle))
