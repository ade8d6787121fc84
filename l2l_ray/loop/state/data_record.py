"""What a run remembers of its data (`data.json`), so that it notices a change: a run keeps to what it began with.

One short hash for each text, each mask and each picture. Truth enters only where the run itself knows it: the masks of
labeled and evaluation items. A picture is read again only where its size or time of change differs, so moving a data
set about is no change, and looking costs seconds. RefShapes, which a config draws anew wherever it is missing, cannot
change and is not recorded item by item.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from l2l_ray.storage import place
from l2l_ray.types import Example, LabeledExample
from l2l_ray.wording import counted

Picture = list[Any]  # path, bytes, time of change in ns, hash of the content; the last three are None where it is gone


@dataclass(frozen=True)
class DataRecord:
    """The data of one run. Keys are ids as text: of sentences, refs and images.

    Example: `saved.changes(DataRecord.of([*labeled, *unlabeled], splits, saved))`
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    masks: Mapping[str, str] = field(default_factory=dict)
    pictures: Mapping[str, Picture] = field(default_factory=dict)

    @classmethod
    def of(cls, train: Sequence[Example], splits: Mapping[str, Sequence[Example]], known: DataRecord) -> DataRecord:
        """Return the record of some examples.

        Args:
            train: Labeled and unlabeled examples of train.
            splits: Those of the evaluation splits of the data set.
            known: An earlier record; a picture that has its size and time of change there is not read again.
        """
        texts: dict[str, str] = {}
        masks: dict[str, str] = {}
        paths: dict[int, str] = {}
        for split, examples in (("train", train), *splits.items()):
            for example in examples:
                hint = [example.hint.to_json()] if example.hint else []
                text = [split, example.image_id, example.ref_id, example.expression, *hint]
                texts[str(example.sent_id)] = _hash(text)
                paths[example.image_id] = example.image_path
                if isinstance(example, LabeledExample):
                    masks[str(example.ref_id)] = _hash([example.mask_rle["size"], example.mask_rle["counts"]])
        pictures = {str(i): _picture(path, known.pictures.get(str(i))) for i, path in paths.items()}
        return cls(texts, masks, pictures)

    @classmethod
    def load(cls, path: Path) -> DataRecord | None:
        """Read a record; None where there is none that can be read, or it holds no item."""
        try:
            content = json.loads(path.read_text())
            found = cls(**{name: content[name] for name in ("texts", "masks", "pictures")})
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if found.texts else None

    def changes(self, now: DataRecord) -> list[str]:
        """Say what differs in `now`, e.g. `["10 more masks", "2 photos fewer"]`; nothing where all is the same."""
        return [
            *_differences("mask", self.masks, now.masks),
            *_differences("text", self.texts, now.texts),
            *_differences("photo", _contents(self.pictures), _contents(now.pictures)),
        ]


def _differences(noun: str, before: Mapping[str, str], now: Mapping[str, str]) -> Iterable[str]:
    others = sum(now[key] != value for key, value in before.items() if key in now)
    if more := len(now.keys() - before.keys()):
        yield counted(more, f"more {noun}")
    for count, what in ((len(before.keys() - now.keys()), "fewer"), (others, "changed")):
        if count:
            yield f"{counted(count, noun)} {what}"


def _contents(pictures: Mapping[str, Picture]) -> dict[str, str]:
    """Return the hash of each picture that is there."""
    return {image_id: picture[3] for image_id, picture in pictures.items() if picture[3] is not None}


def _picture(path: str, known: Picture | None) -> Picture:
    try:
        status = place(path).stat()
        stamp = [path, status.st_size, status.st_mtime_ns]
        if known is not None and known[:3] == stamp:
            return known
        with place(path).open("rb") as file:
            return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()[:16]]
    except OSError:
        return [path, None, None, None]


def _hash(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]
