"""Pseudo-labels of this very step: weak-to-strong training, for selectors that are registered with `online=True`.

Such a selector's labels are not made once per round and stored. At every step the teacher, as it is by then, labels the
photos of the batch; its selector decides; and the student learns from two strongly changed views of each photo, each
moving the label along. The teacher sees photos as they are, like the teacher of stored labels. Draws, batch sizes and
steps are those of every other selector, so what differs is the age of the labels and the second view.

It costs one more pass of the teacher per unlabeled sample, without gradient, and twice the student's passes.

Source: labels at every step by a fixed threshold are FixMatch's (Sohn et al. 2020), the EMA teacher is Mean Teacher's
(Tarvainen & Valpola 2017), two strong views of one label are UniMatch's (Yang et al. 2023), whose third stream, dropped
features, is left out. Departure: a label without an accepted object cell teaches nothing, as for every selector.
"""

from __future__ import annotations

from collections.abc import Sequence

from l2l_ray.config import LoopConfig
from l2l_ray.errors import ConfigError
from l2l_ray.loop.inference.batches import Batches
from l2l_ray.loop.inference.inputs import ExampleSet
from l2l_ray.loop.inference.teacher import guided_evidence
from l2l_ray.loop.training.step import TrainBatch, joined
from l2l_ray.randomness import sample_key
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.selector.base import Selector


class OnlineSet:
    """All unlabeled samples, labeled when a batch is asked for; in the place of a `PseudoSet`.

    Args:
        unlabeled: The unlabeled set.
        teacher: Labels each batch by the weights it has then.
        selector: Decides by the guided prediction alone, which costs one pass of the teacher.
        loop: The run's seed, how many samples one pass of the teacher takes, and whether to use autocast.
        round_index: Keys the selector's draws, as those of a round's stored labels.

    Raises:
        ConfigError: The selector needs more than the guided prediction.
    """

    num_views = 2

    def __init__(
        self, unlabeled: ExampleSet, teacher: Segmenter, selector: Selector, loop: LoopConfig, round_index: int
    ) -> None:
        if selector.needs_full_evidence:
            raise ConfigError(
                f"a selector registered with online=True decides by the guided prediction alone, got "
                f"{type(selector).__name__} with needs_full_evidence=True; set that to False, or register it with "
                "online=False"
            )
        self._unlabeled = unlabeled
        self._teacher = teacher
        self._selector = selector
        self._loop = loop
        self._round = round_index
        self._batches = Batches(loop.eval_batch)

    def __len__(self) -> int:
        return len(self._unlabeled)

    def batch(self, indices: Sequence[int]) -> TrainBatch:
        """Load samples by their place in the unlabeled set and label them; a label that is not used has weight 0."""
        return joined(list(self._batches.each(list(indices), self._labeled)))

    def _labeled(self, part: list[int]) -> TrainBatch:
        inputs = self._unlabeled.inputs(part).to(next(self._teacher.parameters()).device)
        keys = [sample_key(self._loop.seed, "label", self._round, self._unlabeled[i].sent_id) for i in part]
        selection = self._selector.select(guided_evidence(self._teacher, inputs, self._loop.autocast), keys)
        used = selection.used[:, None, None]
        return TrainBatch(inputs, (selection.target & used).float(), selection.pixel_weight * used)

    def prefetch(self, indices: Sequence[int]) -> None:
        """Start decoding the images of a later batch in the background."""
        self._unlabeled.prefetch(indices)

    def summary(self) -> dict[str, float]:
        """Return no figures: no label of a round is kept. Those of a version's selector on val are in the report."""
        return {}
