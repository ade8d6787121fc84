"""The examples a report shows: from the best to the worst of a split by IoU, or unlabeled ones; evenly spaced."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from l2l_ray.data.masks import decode
from l2l_ray.data.pixels import read_rgb
from l2l_ray.loop.inference.engine import InferenceEngine, PanelData
from l2l_ray.loop.state.example_files import read_examples
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.metrics import IouMeter
from l2l_ray.report.panels import ExamplePanel, accepted_codes, write_examples
from l2l_ray.types import Example, LabeledExample, Prior

NUM_PANELS = 16


def write_panels(
    run: RunFolder, engine: InferenceEngine, meter: IouMeter | None, method: str, version: int, split: str
) -> None:
    """Draw examples of one version.

    Args:
        run: The run.
        engine: Gathers the evidence again for the few samples shown.
        meter: Per-sentence IoU of this version on this split; None = there is no truth.
        method: Its method.
        version: Which version.
        split: An evaluation split, whose truth is shown, or "unlabeled".
    """
    iou_of = {int(row["sent_id"]): float(row["iou"]) for row in meter.rows()} if meter else {}
    rows = read_examples(run.examples_path(split))
    chosen = spread([iou_of.get(row.sent_id, 0.0) for row in rows], NUM_PANELS)
    if not chosen:
        return
    data = engine.evidence_and_selection(method, version, split, chosen)
    priors = engine.priors(split)
    examples = [rows[i] for i in chosen]
    panels = [_panel(e, priors[e.sent_id], data, k, split, iou_of.get(e.sent_id)) for k, e in enumerate(examples)]
    write_examples(run.path, panels)


def spread(scores: Sequence[float], num: int) -> list[int]:
    """Return positions of evenly spaced ranks, best first, the very worst last."""
    order = np.argsort(scores, kind="stable")[::-1]
    ranks = np.linspace(0, len(order) - 1, min(num, len(order))).round().astype(int)
    return [int(order[rank]) for rank in ranks]


def _panel(
    example: Example | LabeledExample, prior: Prior, data: PanelData, row: int, split: str, iou: float | None
) -> ExamplePanel:
    pixels = np.asarray(read_rgb(example.image_path))

    def array(tensor: Any) -> np.ndarray:
        return np.asarray(tensor[row].float().cpu().numpy())

    action, target = (np.asarray(t[row].cpu().numpy()) for t in (data.selection.action, data.selection.target))
    gated_on = float(data.selection.gate[row]) >= 0.5
    return ExamplePanel(
        sent_id=example.sent_id,
        expression=example.expression,
        split=split,
        iou=iou,
        image=pixels,
        prior_box_xyxy_frac=prior.boxes_xyxy_frac[0] if prior.boxes_xyxy_frac else None,
        prior_score=prior.score,
        proposal=array(data.inputs.proposal) if prior.boxes_xyxy_frac else None,
        teacher=array(data.evidence.mask_probs),
        accepted=accepted_codes(action * gated_on, target),
        final=array(data.final.sigmoid()),
        truth=decode(example.mask_rle).astype(np.float32) if isinstance(example, LabeledExample) else None,
    )
