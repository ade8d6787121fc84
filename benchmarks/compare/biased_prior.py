"""Priors that are wrong on purpose: for chosen categories the box lies on another object of the same kind.

It asks whether a method notices that its prior cannot be trusted. One category in three is drawn, rounded down (of the
eight of RefShapes two), and of the sentences about their objects the share `frac`; the box of each moves to the nearest
other object of the same category in the image. Where there is none, or no box, it stays: at half of the sentences about
12 % of all boxes move, and few of one set where it rarely has these categories. How many did is in every record and in
the tables. Labeled, unlabeled and evaluation sets are moved by one rule: that is what a language model with this fault
would answer.

To move a box one must know the object, the others and their categories. That is truth, so this lies in benchmarks, is
no setting of the package, works on the embedded benchmark alone, and is written into the run's outputs. It prepares
the files of priors of one run before the run starts; the run then finds them complete and asks for nothing. The store
of answers that all runs share is not touched, and a moved prior has a key of its own, so no burn-in is mixed up.

Source: ours.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from l2l_ray.config import EMBEDDED, RunConfig
from l2l_ray.data.plain_pickle import plain_records
from l2l_ray.errors import ConfigError
from l2l_ray.files import replacing
from l2l_ray.loop.inference.priors import Mllm, fill_all_priors
from l2l_ray.loop.state.candidates import data_root
from l2l_ray.loop.state.example_files import read_priors, write_priors
from l2l_ray.loop.state.prepare import RunData
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.randomness import keyed_permutation, keyed_uniform, sample_key
from l2l_ray.types import BoxFrac, Prior

KIND = "same_class"
FRAC = 0.5  # of the sentences about a chosen category's objects
CATEGORY_SHARE = 3  # one category in so many is chosen, rounded down
STAMP = "biased_prior.json"


@dataclass(frozen=True)
class Objects:
    """The embedded benchmark's objects, as far as moving boxes needs them.

    Example: `Objects.read(config).nearest_alike(sent_id)`
    """

    refs: dict[int, int]  # sent_id -> annotation id
    boxes: dict[int, BoxFrac]  # by annotation
    categories: dict[int, str]  # by annotation
    images: dict[int, int]  # annotation -> image

    @classmethod
    def read(cls, config: RunConfig) -> Objects:
        """Read them from the files of the embedded benchmark.

        Raises:
            ConfigError: The run's data are any other.
        """
        if config.data.root != EMBEDDED:
            raise ConfigError(
                f"biased priors are made from the truth of the embedded benchmark alone, got data.root "
                f"{config.data.root!r}; expected {EMBEDDED!r}: leave the biased rows out for other data"
            )
        folder = data_root(config) / config.data.dataset
        content = json.loads((folder / "instances.json").read_text())
        sizes = {row["id"]: (row["width"], row["height"]) for row in content["images"]}
        names = {row["id"]: row["name"] for row in content["categories"]}
        found = content["annotations"]
        refs = plain_records(folder / f"refs({config.data.split_by}).p")
        return cls(
            {sent_id: ref["ann_id"] for ref in refs for sent_id in ref["sent_ids"]},
            {row["id"]: _as_fractions(row["bbox"], *sizes[row["image_id"]]) for row in found},
            {row["id"]: names[row["category_id"]] for row in found},
            {row["id"]: row["image_id"] for row in found},
        )

    def nearest_alike(self, ann_id: int) -> int | None:
        """Return the annotation of the nearest other object of the same category in the image, by box centres."""
        others = [other for other in self._by_image[self.images[ann_id]] if other != ann_id]
        alike = [other for other in others if self.categories[other] == self.categories[ann_id]]
        return min(alike, key=lambda other: _distance(self.boxes[ann_id], self.boxes[other]), default=None)

    @cached_property
    def _by_image(self) -> dict[int, list[int]]:
        found: dict[int, list[int]] = {}
        for ann_id, image_id in self.images.items():
            found.setdefault(image_id, []).append(ann_id)
        return found


def chosen_categories(objects: Objects, seed: int) -> tuple[str, ...]:
    """Return the categories whose boxes move: a third of all, rounded down, at least one."""
    names = sorted(set(objects.categories.values()))
    order = keyed_permutation(sample_key(seed, "biased_prior", "categories"), len(names))
    return tuple(sorted(names[i] for i in order[: max(1, len(names) // CATEGORY_SHARE)]))


def move_priors(priors: dict[int, Prior], objects: Objects, seed: int, frac: float) -> dict[int, Prior]:
    """Return the priors, some of them moved.

    Args:
        priors: sent_id -> prior; one without a box stays as it is.
        objects: Of the data set.
        seed: The run's; it draws categories and sentences.
        frac: Share of the sentences about chosen categories that are moved, in [0, 1].
    """
    if not 0 <= frac <= 1:
        raise ConfigError(f"the share of moved boxes must be in [0, 1], got {frac:g}; expected e.g. {FRAC:g}")
    chosen = chosen_categories(objects, seed)
    moved = dict(priors)
    for sent_id, prior in priors.items():
        ann_id = objects.refs[sent_id]
        drawn = keyed_uniform([sample_key(seed, "biased_prior", sent_id)], 1)[0, 0] < frac
        if prior.boxes_xyxy_frac and drawn and objects.categories[ann_id] in chosen:
            other = objects.nearest_alike(ann_id)
            if other is not None:
                moved[sent_id] = _moved(prior, objects.boxes[other])
    return moved


def prepare_biased(config: RunConfig, run: RunFolder, data: RunData, mllm: Mllm, frac: float = FRAC) -> dict[str, Any]:
    """Write the priors of a run, some of them moved, and say so in the run's folder; a second time changes nothing.

    Returns:
        What was done: `kind`, `frac`, `categories`, and per set how many of how many priors were moved.
    Raises:
        ConfigError: The data are not the embedded benchmark's.
    """
    objects = Objects.read(config)
    stamp = run.path / STAMP
    if stamp.exists() and all(run.priors_path(name).exists() for name in data.prior_order):
        return dict(json.loads(stamp.read_text()))
    chosen = chosen_categories(objects, config.loop.seed)
    _add_notice(run, f"priors moved on purpose ({KIND}, {frac:g} of the sentences about {', '.join(chosen)})")
    plain = RunFolder(run.path / "plain_priors", config)
    plain.path.mkdir(exist_ok=True)
    fill_all_priors(config, plain, data, mllm)
    counts = {}
    for name in data.prior_order:
        before = read_priors(plain.priors_path(name))
        after = move_priors(before, objects, config.loop.seed, frac)
        write_priors(run.priors_path(name), after.items())
        counts[name] = [sum(after[i] != before[i] for i in before), len(before)]
    done = {"kind": KIND, "frac": frac, "categories": list(chosen), "moved": counts}
    run.log_event({"event": "biased_prior", **done})
    with replacing(stamp) as temporary:
        temporary.write_text(json.dumps(done, indent=1))
    return done


def _add_notice(run: RunFolder, notice: str) -> None:
    """Add to what every report and results.json of the run says about its data."""
    content = json.loads(run.data_path.read_text())
    if notice not in content["notices"]:
        content["notices"].append(notice)
        with replacing(run.data_path) as temporary:
            temporary.write_text(json.dumps(content))
        run.promise(run.data_path)  # else the run that goes on takes it for damaged, and writes it without the notice


def _moved(prior: Prior, box: BoxFrac) -> Prior:
    """Return the prior with its surest box alone, on another object; score and phrase stay."""
    key = hashlib.sha256(f"{prior.key} {KIND} {box}".encode()).hexdigest()
    scores, points = prior.box_scores[:1], ()
    return replace(
        prior, key=key, boxes_xyxy_frac=(box,), box_scores=scores, points_xy_frac=points, polygons_xy_frac=()
    )


def _as_fractions(bbox: list[float], width: int, height: int) -> BoxFrac:
    x, y, w, h = bbox
    return x / width, y / height, (x + w) / width, (y + h) / height


def _distance(first: BoxFrac, second: BoxFrac) -> float:
    """Return the squared distance of two boxes' centres, in fractions of the image."""
    return sum((first[i] + first[i + 2] - second[i] - second[i + 2]) ** 2 for i in (0, 1)) / 4
