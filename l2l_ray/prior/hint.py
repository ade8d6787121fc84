"""What a user's hint makes of a prior. A box takes the MLLM's place; points judge what the MLLM answers.

- A box: the MLLM is not asked. The box is the prior, with a score of 1 and no phrase.
- Points alone: the MLLM is asked. Of its boxes and polygons those stay that hold the most points; where none holds any,
  there is no prior, and the failure says so: nothing is drawn around a point, since that says where an object is but
  not how large. SAM takes the points along with the boxes, in both cases; the other proposals do not. An answer of
  points alone gives way to the user's, which then prompt SAM.

Neither goes into the store that runs share: the first costs nothing to make, the second starts from the MLLM's own
answer, which is what is stored. With the masks that SAM draws for them, both do. Keys differ from those of all answers
of an MLLM, and with every hint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from l2l_ray.prior.reply import prior_key
from l2l_ray.types import BoxFrac, Hint, PointFrac, Prior

OFF_POINT = "no box at the user's point"
SURE = 1.0


def prior_of_hint(hint: Hint, image_sha256: str, expression: str) -> Prior:
    """Return the prior that a user's box is.

    Args:
        hint: With a box.
        image_sha256: Hash of the image's file, for the key.
        expression: What the box is said to hold, for the key.
    """
    assert hint.box_xyxy_frac is not None, "points alone are for `at_points`"
    key = _key("user", hint, image_sha256, expression)
    return Prior(key, (hint.box_xyxy_frac,), (SURE,), hint.points_xy_frac, "", SURE, "", "", source="user")


def at_points(prior: Prior, hint: Hint, image_sha256: str, expression: str) -> Prior:
    """Return what an answer of the MLLM comes to where a user says points of the referent.

    Args:
        prior: The answer.
        hint: With points and no box.
        image_sha256: Hash of the image's file, for the key.
        expression: What was asked about, for the key.
    """
    key = _key(prior.key, hint, image_sha256, expression)
    if prior.failure:
        return replace(prior, key=key)
    points = hint.points_xy_frac
    if not prior.boxes_xyxy_frac and not prior.polygons_xy_frac:
        return replace(prior, key=key, points_xy_frac=points)
    held = [_num_held(box, points) for box in prior.boxes_xyxy_frac]
    held_by_polygons = _num_held(_bounds(prior.polygons_xy_frac), points)
    most = max([*held, held_by_polygons])
    if most == 0:
        return Prior.absent(key, f"{OFF_POINT}: {len(held)} elsewhere", prior.reply)
    kept = [i for i, num in enumerate(held) if num == most]
    return replace(
        prior,
        key=key,
        boxes_xyxy_frac=tuple(prior.boxes_xyxy_frac[i] for i in kept),
        box_scores=tuple(prior.box_scores[i] for i in kept),
        points_xy_frac=points,
        polygons_xy_frac=prior.polygons_xy_frac if held_by_polygons == most else (),
    )


def _key(source: str, hint: Hint, image_sha256: str, expression: str) -> str:
    return prior_key(f"{source} {hint.to_json()}", image_sha256, expression)


def _num_held(box: BoxFrac, points: Sequence[PointFrac]) -> int:
    return sum(box[0] <= x <= box[2] and box[1] <= y <= box[3] for x, y in points)


def _bounds(polygons: Sequence[Sequence[PointFrac]]) -> BoxFrac:
    """Return the box around all polygons; one that holds nothing where there are none."""
    corners = [corner for polygon in polygons for corner in polygon] or [(2.0, 2.0)]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)
