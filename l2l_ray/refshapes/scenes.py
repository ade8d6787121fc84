"""Procedural scenes of simple shapes, with a mask and a box for each.

This file decides what a scene contains and how it looks in each of the two rendering domains. It reads and writes no
files: `expressions` refers to the objects of a scene in words, `synthetic` turns scenes into a benchmark on disk. The
names of shapes, colors, textures and sizes are shared by the domains, the rendering is not:

- `pretrain`: saturated palette, smooth background, objects apart from one another, no shading, little texture.
- `refshapes`: shifted hues with jitter, noisy background with clutter lines, shading, outlines, texture, occlusion,
  near-duplicates.

Shapes are signed distance functions evaluated on the object's own crop. A pixel is in the mask of the front-most object
whose distance at the pixel centre is negative, so masks are exact for what is visible; the colors are anti-aliased with
the same distance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Grid = NDArray[np.floating[Any]]  # [H, W] of an image or of a crop
Domain = Literal["refshapes", "pretrain"]

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
COLORS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
TEXTURES = ("plain", "striped", "dotted", "checked")
SIZE_WORDS = ("small", "medium", "large")
CATEGORY_IDS = {shape: index + 1 for index, shape in enumerate(SHAPES)}

MIN_VISIBLE_FRAC = 0.35
# Radii as fractions of the shorter side. The gaps between the ranges keep the size words from depending on a pixel.
_RADIUS_FRAC = {"small": (0.055, 0.078), "medium": (0.098, 0.125), "large": (0.15, 0.188)}
_PALETTES: dict[str, dict[str, tuple[int, int, int]]] = {
    "pretrain": {
        "red": (230, 25, 25), "orange": (255, 140, 0), "yellow": (250, 230, 20), "green": (30, 170, 50),
        "cyan": (30, 220, 225), "blue": (35, 70, 230), "purple": (130, 40, 190), "pink": (255, 140, 200),
    },
    "refshapes": {
        "red": (178, 32, 62), "orange": (214, 108, 40), "yellow": (206, 196, 62), "green": (78, 140, 52),
        "cyan": (72, 186, 172), "blue": (44, 88, 168), "purple": (104, 56, 142), "pink": (226, 122, 160),
    },
}  # fmt: skip


@dataclass(frozen=True)
class SceneObject:
    """One object as placed, before occlusion. Angles are degrees, clockwise on screen."""

    shape: str
    color: str
    size_word: str
    texture: str
    category_id: int
    center_xy_px: tuple[float, float]
    radius_px: float
    angle_deg: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A rendered image with its objects, ordered back to front.

    Args:
        image: uint8 [H, W, 3], RGB.
        objects: N objects, back to front.
        masks: bool [N, H, W]; True = the object is visible at the pixel. The masks are disjoint.
        boxes_xyxy_px: float32 [N, 4] of each visible mask; x2 and y2 are exclusive edges.
        hidden_px: int64 [N, N]; [i, j] = pixels of object j that object i covers (i in front of j).
        visible_frac: float32 [N]; visible pixels over all pixels of the object.
    """

    image: NDArray[np.uint8]
    objects: tuple[SceneObject, ...]
    masks: NDArray[np.bool_]
    boxes_xyxy_px: NDArray[np.float32]
    hidden_px: NDArray[np.int64]
    visible_frac: NDArray[np.float32]


@dataclass(frozen=True)
class ScenePlan:
    """What a scene should contain; the defaults of each domain are in `DEFAULT_PLANS`.

    Args:
        num_objects: Smallest and largest number of objects; fewer are placed only where there is no room.
        twin_frac: Probability that an object copies an earlier one except for one attribute.
        overlap_frac: Probability that an object is placed so as to touch or cover an earlier one.
        textured_frac: Probability that an object of medium or large size has a texture other than plain.
        num_clutter: Largest number of clutter lines in the background.
        focus_shapes: Shapes to draw from in three of four cases; the others come from all of `SHAPES`.
    """

    num_objects: tuple[int, int] = (4, 9)
    twin_frac: float = 0.4
    overlap_frac: float = 0.0
    textured_frac: float = 0.2
    num_clutter: int = 0
    focus_shapes: tuple[str, ...] = SHAPES


DEFAULT_PLANS: dict[str, ScenePlan] = {
    "pretrain": ScenePlan(),
    "refshapes": ScenePlan(twin_frac=0.7, overlap_frac=0.35, textured_frac=0.55, num_clutter=6),
}


def render_scene(
    rng: np.random.Generator, domain: Domain, size_px: int | tuple[int, int] = 128, plan: ScenePlan | None = None
) -> Scene:
    """Place and render a random scene.

    Args:
        rng: Source of everything random; the same state gives the same scene.
        domain: Which rendering to use.
        size_px: Side of a square image, or (height, width); at least 48.
        plan: What the scene contains; None uses the domain's default.
    """
    height, width = (size_px, size_px) if isinstance(size_px, int) else size_px
    if min(height, width) < 48:
        raise ValueError(f"size_px must be at least 48 on both sides, got {(height, width)}")
    plan = plan or DEFAULT_PLANS[domain]
    placed = _place(rng, plan, height, width)
    canvas = _background(rng, domain, plan, height, width)
    light = rng.uniform(0, 2 * math.pi)
    for obj, crop in placed.items:
        _paint(canvas, obj, crop, rng, domain, light)
    if domain == "refshapes":
        canvas += rng.integers(-7, 8, canvas.shape, dtype=np.int8)
    masks = placed.front[None] == np.arange(len(placed.items), dtype=np.int8)[:, None, None]
    full = _full_masks(placed).reshape(len(masks), -1).astype(np.float32)
    shared_px = (full @ full.T).astype(np.int64)
    return Scene(
        image=np.clip(canvas, 0, 255).astype(np.uint8),
        objects=tuple(obj for obj, _ in placed.items),
        masks=masks,
        boxes_xyxy_px=np.stack([mask_box_xyxy(mask) for mask in masks]),
        hidden_px=np.tril(shared_px, -1),
        visible_frac=(masks.sum((1, 2)) / shared_px.diagonal()).astype(np.float32),
    )


def mask_box_xyxy(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Return the tight box of a nonempty mask as float32 (x1, y1, x2, y2), x2 and y2 exclusive."""
    xs = np.flatnonzero(mask.any(0))
    ys = np.flatnonzero(mask.any(1))
    return np.array([xs[0], ys[0], xs[-1] + 1, ys[-1] + 1], dtype=np.float32)


# ---------------------------------------------------------------------------------------------------------------------
# Geometry and placement


@dataclass(frozen=True)
class _Crop:
    """An object's pixels: where its crop lies, its local coordinates in pixels, and its signed distance."""

    rows: slice
    cols: slice
    u: Grid
    v: Grid
    distance: Grid
    inside: NDArray[np.bool_]


@dataclass(frozen=True)
class _Placed:
    items: list[tuple[SceneObject, _Crop]]
    front: NDArray[np.int8]  # [H, W], index of the front-most object, -1 = background


def _signed_distance(shape: str, x: Grid, y: Grid) -> Grid:
    """Return the distance to the outline for an object of radius 1, negative inside; y points down."""
    match shape:
        case "circle":
            return np.hypot(x, y) - 0.92
        case "square":
            return np.maximum(np.abs(x), np.abs(y)) - 0.8
        case "triangle":
            return _star_distance(x, y, num_tips=3, tip=1.12, notch=0.56)
        case "star":
            return _star_distance(x, y, num_tips=5, tip=1.1, notch=0.46)
        case "cross":
            x, y = np.abs(x), np.abs(y)
            return np.maximum(np.maximum(x, y) - 0.95, np.minimum(x, y) - 0.3)
        case "ring":
            return np.abs(np.hypot(x, y) - 0.74) - 0.22
        case "crescent":
            bitten: Grid = np.maximum(np.hypot(x, y) - 1.0, 0.78 - np.hypot(x - 0.5, y))
            return bitten
        case "heart":
            return _heart_distance(np.abs(x) * 0.63, 0.55 - y * 0.63) / 0.63
    raise ValueError(f"unknown shape {shape!r}, expected one of {SHAPES}")


def _star_distance(x: Grid, y: Grid, num_tips: int, tip: float, notch: float) -> Grid:
    """Fold the plane into half a tip, where the outline is one line from (tip, 0) to the notch."""
    half = math.pi / num_tips
    angle = np.abs((np.arctan2(x, -y) + half) % (2 * half) - half)
    rho = np.hypot(x, y)
    edge_x, edge_y = notch * math.cos(half) - tip, notch * math.sin(half)
    length = math.hypot(edge_x, edge_y)
    return ((rho * np.cos(angle) - tip) * edge_y - rho * np.sin(angle) * edge_x) / length


def _heart_distance(x: Grid, y: Grid) -> Grid:
    """Return the distance to a heart with its tip at the origin; x >= 0 by symmetry, y points up."""
    lobe = np.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    foot = 0.5 * np.maximum(x + y, 0)
    below = np.minimum(np.hypot(x, y - 1), np.hypot(x - foot, y - foot)) * np.sign(x - y)
    return np.where(x + y > 1, lobe, below)


def _crop(obj: SceneObject, height: int, width: int) -> _Crop:
    cx, cy = obj.center_xy_px
    reach = obj.radius_px * 1.15 + 1.5
    x1, x2 = max(0, int(cx - reach)), min(width, int(cx + reach) + 1)
    y1, y2 = max(0, int(cy - reach)), min(height, int(cy + reach) + 1)
    dx = np.arange(x1, x2, dtype=np.float32)[None, :] + np.float32(0.5 - cx)
    dy = np.arange(y1, y2, dtype=np.float32)[:, None] + np.float32(0.5 - cy)
    cos, sin = (np.float32(f(math.radians(obj.angle_deg))) for f in (math.cos, math.sin))
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    radius = np.float32(obj.radius_px)
    distance = _signed_distance(obj.shape, u / radius, v / radius) * radius
    return _Crop(slice(y1, y2), slice(x1, x2), u, v, distance, distance < 0)


def _place(rng: np.random.Generator, plan: ScenePlan, height: int, width: int) -> _Placed:
    """Place objects one in front of the other; every object keeps `MIN_VISIBLE_FRAC` of its pixels visible."""
    front = np.full((height, width), -1, dtype=np.int8)
    items: list[tuple[SceneObject, _Crop]] = []
    visible_px: list[int] = []
    wanted = int(rng.integers(plan.num_objects[0], plan.num_objects[1] + 1))
    for _ in range(10 * wanted):
        spec = _draw_attributes(rng, plan, [obj for obj, _ in items])
        for _ in range(12):
            obj = _draw_position(rng, plan, spec, [other for other, _ in items], height, width)
            if obj is None:
                continue
            crop = _crop(obj, height, width)
            covered = np.bincount(front[crop.rows, crop.cols][crop.inside] + 1, minlength=len(items) + 1)[1:]
            left = [have - int(lost) for have, lost in zip(visible_px, covered, strict=True)]
            enough = [MIN_VISIBLE_FRAC * int(other.inside.sum()) for _, other in items]
            if all(n >= need or not lost for n, need, lost in zip(left, enough, covered, strict=True)):
                front[crop.rows, crop.cols][crop.inside] = len(items)
                visible_px = [*left, int(crop.inside.sum())]
                items.append((obj, crop))
                break
        if len(items) == wanted:
            break
    return _Placed(items, front)


def _draw_attributes(rng: np.random.Generator, plan: ScenePlan, placed: Sequence[SceneObject]) -> dict[str, str]:
    size = SIZE_WORDS[rng.choice(3, p=(0.25, 0.45, 0.3))] if len(placed) < 6 else SIZE_WORDS[rng.integers(2)]
    textured = size != "small" and rng.random() < plan.textured_frac
    shapes = plan.focus_shapes if rng.random() < 0.75 else SHAPES
    spec = {
        "shape": shapes[rng.integers(len(shapes))],
        "color": COLORS[rng.integers(len(COLORS))],
        "size_word": size,
        "texture": TEXTURES[rng.integers(1, 4)] if textured else "plain",
    }
    if placed and rng.random() < plan.twin_frac:
        twin = placed[int(rng.integers(len(placed)))]
        changed = ("shape", "color", "size_word", "texture", "none")[rng.choice(5, p=(0.2, 0.3, 0.2, 0.15, 0.15))]
        spec = {name: spec[name] if name == changed else getattr(twin, name) for name in spec}
        if spec["size_word"] == "small":
            spec["texture"] = "plain"
    return spec


def _draw_position(
    rng: np.random.Generator,
    plan: ScenePlan,
    spec: dict[str, str],
    placed: Sequence[SceneObject],
    height: int,
    width: int,
) -> SceneObject | None:
    """Draw a position inside the image: clear of every object, or across the edge of one; None if the draw failed."""
    low, high = _RADIUS_FRAC[spec["size_word"]]
    radius = float(rng.uniform(low, high)) * min(height, width)
    margin = radius * 1.1 + 1
    center = (float(rng.uniform(margin, width - margin)), float(rng.uniform(margin, height - margin)))
    overlapping = bool(placed) and rng.random() < plan.overlap_frac
    if overlapping:
        other = placed[int(rng.integers(len(placed)))]
        reach, angle = rng.uniform(0.5, 0.95) * (radius + other.radius_px), rng.uniform(0, 2 * math.pi)
        center = (other.center_xy_px[0] + reach * math.cos(angle), other.center_xy_px[1] + reach * math.sin(angle))
        if not (margin <= center[0] <= width - margin and margin <= center[1] <= height - margin):
            return None
    else:
        # 1.12: the tips of stars and triangles reach beyond the nominal radius.
        gaps = (math.dist(center, o.center_xy_px) - 1.12 * (radius + o.radius_px) for o in placed)
        if min(gaps, default=1.0) < 1.0:
            return None
    return SceneObject(
        **spec,
        category_id=CATEGORY_IDS[spec["shape"]],
        center_xy_px=center,
        radius_px=radius,
        angle_deg=float(rng.uniform(-18, 18)),
    )


def _full_masks(placed: _Placed) -> NDArray[np.bool_]:
    """Return bool [N, H, W], every object as if nothing were in front of it."""
    masks = np.zeros((len(placed.items), *placed.front.shape), dtype=np.bool_)
    for mask, (_, crop) in zip(masks, placed.items, strict=True):
        mask[crop.rows, crop.cols] = crop.inside
    return masks


# ---------------------------------------------------------------------------------------------------------------------
# Painting


def _background(rng: np.random.Generator, domain: Domain, plan: ScenePlan, height: int, width: int) -> Grid:
    """Return a float32 [H, W, 3] background in 0..255."""
    if domain == "pretrain":
        corners = np.full((1, 1, 3), rng.uniform(20, 245)) + rng.uniform(-12, 12, (1, 1, 3))
        slope = rng.uniform(-35, 35, (2, 1, 1, 1)) if rng.random() < 0.5 else np.zeros((2, 1, 1, 1))
        ys, xs = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
        smooth: Grid = np.clip(corners + slope[0] * ys + slope[1] * xs, 0, 255).astype(np.float32)
        return smooth
    base = rng.uniform(70, 200) + rng.uniform(-22, 22, 3)
    cells = rng.integers(2, 9)
    coarse = base + rng.uniform(-38, 38, (cells, cells, 1)) + rng.uniform(-10, 10, (cells, cells, 3))
    picture = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(
        (width, height), Image.Resampling.BILINEAR
    )
    draw = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(0, plan.num_clutter + 1))):
        x1, y1, x2, y2 = (rng.random(4) * (width, height, width, height)).tolist()
        tone = tuple(int(c) for c in np.clip(base + rng.uniform(-70, 70, 3), 0, 255))
        draw.line((x1, y1, x2, y2), fill=tone, width=int(rng.integers(1, 4)))
    canvas: Grid = np.asarray(picture, dtype=np.float32)
    return canvas + rng.integers(-12, 13, (height, width, 1), dtype=np.int8)


def _paint(canvas: Grid, obj: SceneObject, crop: _Crop, rng: np.random.Generator, domain: Domain, light: float) -> None:
    """Blend one object onto the canvas, in place."""
    color = np.array(_PALETTES[domain][obj.color], dtype=np.float32)
    shade = np.ones_like(crop.u)
    if domain == "refshapes":
        color = np.clip(color * rng.uniform(0.88, 1.12) + rng.uniform(-14, 14, 3), 0, 255).astype(np.float32)
        lit_x, lit_y = (
            np.float32(f(light - math.radians(obj.angle_deg)) * 0.22 / obj.radius_px) for f in (math.cos, math.sin)
        )
        shade += crop.u * lit_x + crop.v * lit_y
        # Every object has a faint rim, or like-colored objects that overlap would run together; some have an outline.
        rim_px, rim_tone = (1.5, 0.4) if rng.random() < 0.35 else (1.0, 0.7)
        shade *= np.where(crop.distance > -rim_px, np.float32(rim_tone), np.float32(1))
    fill = np.broadcast_to(color, (*crop.u.shape, 3))
    if obj.texture != "plain":
        # Bright colors get dark marks and dark colors light ones, so that a texture shows in every color.
        mark = color * np.float32(0.42) if color.mean() > 115 else color * np.float32(0.4) + np.float32(150)
        fill = np.where(_texture_marks(obj, crop.u, crop.v)[..., None], mark, color)
    alpha = np.clip(0.5 - crop.distance, 0, 1)[..., None]
    region = canvas[crop.rows, crop.cols]
    region += alpha * (fill * shade[..., None] - region)


def _texture_marks(obj: SceneObject, u: Grid, v: Grid) -> NDArray[np.bool_]:
    """Return where the texture's second tone goes; its period follows the radius."""
    u, v = u / np.float32(0.42 * obj.radius_px), v / np.float32(0.42 * obj.radius_px)
    marks: NDArray[np.bool_]
    match obj.texture:
        case "striped":
            marks = (u + v) % 1.0 < 0.5
        case "dotted":
            marks = np.hypot(u * 0.8 % 1.0 - 0.5, v * 0.8 % 1.0 - 0.5) < 0.3
        case "checked":
            marks = (u % 2.0 < 1.0) != (v % 2.0 < 1.0)
        case _:
            raise ValueError(f"unknown texture {obj.texture!r}, expected one of {TEXTURES}")
    return marks
