"""What an update of a data set came to: counts of what is new about it, in words, and what could not be used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from l2l_ray.data.layout import Problem
from l2l_ray.data.object_masks import mask_stays
from l2l_ray.wording import counted


@dataclass
class Update:
    """What an update came to.

    Example: `merge(writer).line` is "10 corrected, 3 new masks, 1 new object, 1 new photo, 45 unchanged"
    """

    num_corrected: int = 0  # a mask was there, or a person looked at one that a run made
    num_confirmed: int = 0  # a person says that a model's mask is right as it is
    num_rejected: int = 0  # a person says that a model's mask is wrong, and gave no other
    num_new_masks: int = 0
    num_new_objects: int = 0
    num_new_texts: int = 0  # of objects that were there
    num_texts_gone: int = 0  # of objects that were there: the file beside the photo says something else now
    num_new_photos: int = 0
    num_photos_back: int = 0  # their files were missing, and are there again
    num_resized: int = 0  # photos that were replaced by others of another size
    num_new_hints: int = 0  # of objects that were there, as are categories
    num_new_categories: int = 0
    num_noted: int = 0  # objects of which it is known by now which file their texts are in: no change of the data
    num_unchanged: int = 0  # objects that were there before and are as they were
    problems: list[Problem] = field(default_factory=list)
    outlived: set[str] = field(default_factory=set)  # problems with the truth of objects that have an earlier one

    def as_it_is(self, problem: Problem) -> Problem:
        """Return a problem that an importer named, with what becomes of its object in this update."""
        is_outlived = str(problem) in self.outlived
        return problem._replace(remedy=mask_stays(problem.remedy)) if is_outlived else problem

    def count_mask(self, had_truth: bool, provenance: Mapping[str, Any]) -> None:
        """Count a mask that came to an object: with or without one before, as its provenance says."""
        if "confirmed_from" in provenance:
            self.num_confirmed += 1
        elif had_truth or "corrected_from" in provenance:
            self.num_corrected += 1
        else:
            self.num_new_masks += 1

    @property
    def num_changes(self) -> int:
        """How much there is to write; new photos come with new objects."""
        truths = self.num_corrected + self.num_confirmed + self.num_rejected + self.num_new_masks
        more = self.num_new_hints + self.num_new_categories + self.num_photos_back + self.num_resized
        return truths + self.num_new_objects + self.num_new_texts + self.num_texts_gone + more

    @property
    def line(self) -> str:
        """The counts, in words."""
        counts = {
            "new mask": self.num_new_masks,
            "new object": self.num_new_objects,
            "new text": self.num_new_texts,
            "new photo": self.num_new_photos,
            "new hint": self.num_new_hints,
        }
        words = [f"{self.num_corrected} corrected"]
        words += [f"{self.num_confirmed} confirmed"] if self.num_confirmed else []
        words += [f"{self.num_rejected} rejected"] if self.num_rejected else []
        words += [counted(count, what) for what, count in counts.items() if count]
        words += [f"{counted(self.num_texts_gone, 'earlier text')} left out"] if self.num_texts_gone else []
        words += [f"{self.num_new_categories} with a new category"] if self.num_new_categories else []
        words += [f"{counted(self.num_photos_back, 'photo')} there again"] if self.num_photos_back else []
        words += [f"{counted(self.num_resized, 'photo')} of another size"] if self.num_resized else []
        return ", ".join([*words, f"{self.num_unchanged} unchanged"])
