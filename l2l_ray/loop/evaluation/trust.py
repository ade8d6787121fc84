"""How good the labels of a run are, said without looking at their truth: by the labeled images alone.

Labeled images, seen through teachers that never trained on them (`calibration.py`), stand for the unlabeled ones. These
are teachers of the burn-in: what later rounds do to labels is seen only in which of them are used and how surely. So a
run on somebody's own photos, of which nobody knows more masks, also says how good its labels are, with an interval;
where the truth is on disk, `hidden_truth.py` says what they really are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from l2l_ray.calibration import Calibration, cross_validated, expected_iou, ranks_of
from l2l_ray.config import RunConfig
from l2l_ray.loop.state.ledger import Ledger, is_used, read_shard
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.loop.state.staleness import label_version


def expected_quality(config: RunConfig, run: RunFolder) -> dict[str, dict[str, Any]]:
    """Return, per method whose scores are calibrated, what its labels of the last round are worth.

    Returns:
        `labeled`: {images, texts} that say so; `reliability` of a calibration that did not see the image it is looked
        at on, see `calibration.reliability`; `all` and `used`: mean IoU of these labels, {mean, low, high} with the
        95 % interval over the draw of the labeled images, each None where it cannot be said. All of labels with a cell.
    """
    found = {}
    for method in run.methods:
        version = label_version(config.loop.rounds - 1, config.loop.lag)
        calibration = Calibration.load(run.version_dir(method, version))
        entries = Ledger(run.ledger_path).entries(method, config.loop.rounds - 1)
        found_labels = (label for entry in entries for label in read_shard(run.path / entry.path))
        labels = [(label.confidence, is_used(label)) for label in found_labels if label.target.any()]
        if calibration is None or not labels:
            continue
        confidences, used = np.array(labels, np.float64).T
        ranks, checked = ranks_of(confidences), calibration.checked
        found[method] = {
            "labeled": {"images": len(set(checked.image_ids)), "texts": len(checked)},
            "reliability": cross_validated(checked),
            "all": expected_iou(checked, ranks),
            "used": expected_iou(checked, ranks[used == 1]),
        }
    return found
