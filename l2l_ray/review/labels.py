"""All labels of a run's last whole round as columns, to be sorted, filtered and paged: opened in a second or two.

Only numbers are read from the shards, and texts from the table of examples; no mask is decoded here (`item.py` does,
for the label that is looked at). There are two fixed orders: by expression, the most doubtful label first; and by
image, the image with the most doubtful label first, its labels together. A page is a range of one of them, of the
labels that the filters let through. So what others decide meanwhile moves no label to another place.

The category of an unlabeled item is hidden truth and not here. What stands in for it, `kind`, is what the language
model called the object: it is read when somebody first asks for it.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import unicodedata
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Bool, Float32, Int8, Int64

from l2l_ray.datatools.record import common_folder
from l2l_ray.errors import ConfigError, DataError
from l2l_ray.jsonl import read_lines
from l2l_ray.loop.evaluation.committed import last_round
from l2l_ray.loop.state.example_files import ExampleTable, PriorTable
from l2l_ray.loop.state.run_folder import open_run
from l2l_ray.review.journal import Journal
from l2l_ray.review.journal_lines import STATES
from l2l_ray.storage import local_copy, place
from l2l_ray.types import Example, Prior
from l2l_ray.wording import folded

ORDERS = ("expression", "image")
MAX_KIND_CHARS = 80  # longer answers of a language model count as one kind from there on
_PHRASE = r'"phrase": (?P<phrase>"(?:[^"\\]|\\.)*")'  # in the JSON of a prior


@dataclass(frozen=True)
class Filters:
    """Which labels are asked for; the defaults let every one through.

    Example: `Filters(state="open", highest=0.5, text="cup")`
    """

    state: str = ""  # one of `journal.STATES`; "" = any
    lowest: float = 0.0  # confidence
    highest: float = 1.0
    text: str = ""  # in expression or name of the photo, see `folded`
    kind: str = ""  # what the language model called the object


class Labels:
    """The labels of a finished run, and where each lies.

    Args:
        run_dir: The run's folder.
    Raises:
        ConfigError: There is no run, or it is not finished.
        DataError: It has no labels, or they were made with hidden truth.
        LedgerError: A shard cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        if not open_run(run_dir).finished:
            raise ConfigError(
                f"the run in {run_dir} is not finished, so its labels may still change; let it end, or continue it "
                "with --resume"
            )
        found = last_round(run_dir)
        self.run, self.about, self._paths = found.run, found.about, found.paths
        first = next(iter(read_lines(found.run.ledger_path)), b"")  # the time that the first shard took is in it
        self.mark = hashlib.sha256(first).hexdigest()[:16]  # tells this run from another one in the same folder
        columns = found.columns("sent_id", "confidence")
        self.sent_ids: Int64[np.ndarray, " N"] = columns["sent_id"]
        self.confidence: Float32[np.ndarray, " N"] = columns["confidence"]
        lengths = [entry.num for entry in found.entries]
        self._shard = np.repeat(np.arange(len(lengths)), lengths)
        self._row = np.concatenate([np.arange(length) for length in lengths])
        self._read_examples()
        self._codes: Int8[np.ndarray, " N"] = np.zeros(len(self), np.int8)  # place in `STATES`
        self._num_seen = 0  # actions of the journal that the codes know
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.sent_ids)

    def position(self, sent_id: int) -> int:
        """Return the place of a label in the columns.

        Raises:
            DataError: There is none of this sentence.
        """
        at = int(np.searchsorted(self._sorted_ids, sent_id))
        if at == len(self) or self._sorted_ids[at] != sent_id:
            raise DataError(f"there is no label of sentence {sent_id} in {self.run.path.name}; reload the page")
        return int(self._by_id[at])

    def shard(self, position: int) -> tuple[Path, int]:
        """Return the shard file of a label, and its row there."""
        return self._paths[self._shard[position]], int(self._row[position])

    def example_row(self, position: int) -> int:
        """Return the row of a label's item in the table of examples."""
        return int(self._example_rows[position])

    def of_image(self, position: int) -> list[int]:
        """Return all labels on the image of a label, the most doubtful first."""
        ranks = self._ranks["image"]
        same = np.flatnonzero(self.image_ids == self.image_ids[position])
        return [int(one) for one in same[np.argsort(ranks[same])]]

    def rank(self, position: int, order: str) -> int:
        """Return the place of a label in an order, from 0."""
        return int(self._ranks[order][position])

    def states(self, journal: Journal) -> Int8[np.ndarray, " N"]:
        """Return the state of each label, as its place in `STATES`."""
        with self._lock:
            touched = journal.touched(self._num_seen)
            self._num_seen += len(touched)
            # What is no label any more, such as one of an earlier round, is passed over.
            ids = np.intersect1d(np.array(touched, np.int64), self._sorted_ids)
            codes = [STATES.index(journal.state(sent_id)) for sent_id in ids.tolist()]
            self._codes[self._by_id[np.searchsorted(self._sorted_ids, ids)]] = codes
            return self._codes.copy()

    def counts(self, journal: Journal) -> dict[str, int]:
        """Return how many labels are in each state."""
        found = np.bincount(self.states(journal), minlength=len(STATES)).tolist()
        return dict(zip(STATES, found, strict=True))

    def page(
        self, journal: Journal, filters: Filters, order: str, start: int, count: int, backwards: bool = False
    ) -> tuple[list[int], int, int]:
        """Return a page of labels.

        Args:
            journal: Says which state each label is in.
            filters: Which labels are wanted.
            order: One of `ORDERS`.
            start: Rank of the first label of the page; of the first behind it, where it is read backwards.
            count: Most labels of a page.
            backwards: Return the labels that end before `start`.
        Returns:
            Positions of the labels; how many the filters let through; how many of these come before the page.
        """
        ranks = np.flatnonzero(self._let_through(journal, filters)[self._orders[order]])
        at = int(np.searchsorted(ranks, start))
        first, last = (max(0, at - count), at) if backwards else (at, at + count)
        page = self._orders[order][ranks[first:last]]
        return page.tolist(), len(ranks), first

    def row(self, position: int, journal: Journal, order: str) -> dict[str, Any]:
        """Return a label as a line of a list: plain values."""
        sent_id = int(self.sent_ids[position])
        standing = journal.standing(sent_id)
        return {
            "sent_id": sent_id,
            "image_id": int(self.image_ids[position]),
            "expression": self.expressions[position],
            "image": self.image_name(position),
            "confidence": round(float(self.confidence[position]), 4),
            "state": journal.state(sent_id),
            "reviewer": standing.reviewer if standing else "",
            "rank": self.rank(position, order),
        }

    def image_name(self, position: int) -> str:
        """Return the path of a label's photo below the folder that holds all photos."""
        path: str = self.image_paths[position]
        return path[len(self._root) :]

    @cached_property
    def kinds(self) -> list[str]:
        """What the language model called the object of each label; "" where it gave no word."""
        table = pq.read_table(local_copy(self.run.priors_path("unlabeled")), use_threads=False)
        words = pc.struct_field(pc.extract_regex(table["prior"].combine_chunks(), pattern=_PHRASE), "phrase")
        found = words.dictionary_encode()
        shown: dict[str, str] = {}  # of each kind, the first spelling that there is of it
        known = ["" if word is None else _kind(json.loads(word), shown) for word in found.dictionary.to_pylist()]
        by_id = {
            sent_id: "" if index is None else known[index]
            for sent_id, index in zip(table["sent_id"].to_pylist(), found.indices.to_pylist(), strict=True)
        }
        return [by_id.get(sent_id, "") for sent_id in self.sent_ids.tolist()]

    def kind_counts(self, most: int) -> list[tuple[str, int]]:
        """Return the most frequent kinds, with how many labels each has."""
        return [(kind, num) for kind, num in Counter(self.kinds).most_common(most + 1) if kind][:most]

    def example(self, position: int) -> Example:
        """Return the item of a label."""
        with self._reading:
            return self._examples[self.example_row(position)]

    def prior(self, sent_id: int) -> Prior | None:
        """Return what the language model said of an item; None = it was not asked."""
        with self._reading:
            return self._priors.get(sent_id)

    def _read_examples(self) -> None:
        self._reading = threading.Lock()  # requests come in several threads, and a table is read by one at a time
        self._examples = ExampleTable(self.run.examples_path("unlabeled"))
        self._priors = PriorTable(self.run.priors_path("unlabeled"))
        ids = self._examples.column("sent_id").astype(np.int64)
        by_id = np.argsort(ids, kind="stable")
        at = np.minimum(np.searchsorted(ids[by_id], self.sent_ids), len(ids) - 1)
        self._example_rows = by_id[at]
        if (ids[self._example_rows] != self.sent_ids).any():
            raise DataError(f"{self.run.path}: labels and examples do not fit; continue the run with --resume")
        rows = self._example_rows.tolist()
        expressions, paths = (self._examples.texts(name) for name in ("expression", "image_path"))
        self.expressions = [expressions[row] for row in rows]
        self.image_paths = [paths[row] for row in rows]
        self.image_root = common_folder([place(folder) for folder in {os.path.dirname(path) for path in set(paths)}])
        self._root = os.path.join(str(self.image_root), "")
        self.image_ids = self._examples.column("image_id").astype(np.int64)[self._example_rows]
        self._by_id = np.argsort(self.sent_ids, kind="stable")
        self._sorted_ids = self.sent_ids[self._by_id]
        doubtful = np.lexsort((self.sent_ids, self.confidence))
        _, image = np.unique(self.image_ids, return_inverse=True)
        lowest = np.full(image.max() + 1, np.inf, np.float32)
        np.minimum.at(lowest, image, self.confidence)
        grouped = np.lexsort((self.sent_ids, self.confidence, self.image_ids, lowest[image]))
        self._orders = {"expression": doubtful, "image": grouped}
        self._ranks = {name: np.argsort(order) for name, order in self._orders.items()}

    @cached_property
    def _searchable(self) -> list[str]:
        return [folded(f"{text}\n{self.image_name(i)}") for i, text in enumerate(self.expressions)]

    def _let_through(self, journal: Journal, filters: Filters) -> Bool[np.ndarray, " N"]:
        chosen: Bool[np.ndarray, " N"] = np.ones(len(self), bool)
        if filters.state:
            chosen &= self.states(journal) == STATES.index(filters.state)
        if filters.lowest > 0 or filters.highest < 1:
            chosen &= (self.confidence >= filters.lowest) & (self.confidence <= filters.highest)
        if filters.text:
            wanted = folded(filters.text)
            chosen &= np.fromiter((wanted in text for text in self._searchable), bool, len(self))
        if filters.kind:
            chosen &= np.fromiter((kind == filters.kind for kind in self.kinds), bool, len(self))
        return chosen


def _kind(phrase: str, shown: dict[str, str]) -> str:
    """Return the one spelling of a kind: that of `shown`, or this one, which is put there."""
    words = unicodedata.normalize("NFC", " ".join(phrase.lower().split()))[:MAX_KIND_CHARS].strip()
    return shown.setdefault(folded(words), words)
