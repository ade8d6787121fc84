"""Augmentation: what depends on the key alone, exact colour effects, mirroring of images, maps and words."""

import pytest
import torch

from l2l_ray.config import StrongConfig
from l2l_ray.data.augment import cell_boxes, flip_where, paste, strong_augment, weak_crop, weak_flip
from l2l_ray.data.words import swap_left_right
from l2l_ray.randomness import sample_key

NOTHING = StrongConfig(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)
HUE_ONLY = StrongConfig(
    jitter_prob=1.0, brightness=0.0, contrast=0.0, saturation=0.0, hue_turns=0.05, gray_prob=0.0, blur_prob=0.0
)
STRONG = StrongConfig()


def batch(num: int, side: int = 33) -> torch.Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(1))


def keys(num: int) -> list[int]:
    return [sample_key(0, "test", i) for i in range(num)]


def test_strong_view_depends_on_the_own_key_only() -> None:
    images, names = batch(9), keys(9)
    changed = strong_augment(images, names, STRONG)
    assert changed.shape == images.shape and 0 <= changed.min() and changed.max() <= 1
    order = [5, 0, 8, 2]
    assert torch.equal(strong_augment(images[order], [names[i] for i in order], STRONG), changed[order])
    for i in range(9):
        assert torch.equal(strong_augment(images[i : i + 1], names[i : i + 1], STRONG)[0], changed[i])


def test_strong_view_changes_and_varies() -> None:
    images = batch(1).expand(16, -1, -1, -1)
    changed = strong_augment(images, keys(16), STRONG)
    assert len({image.sum().item() for image in changed}) >= 15
    assert ((changed - images).abs().amax(dim=(1, 2, 3)) > 0.02).sum() >= 14


def test_strong_view_leaves_its_input_alone() -> None:
    images = batch(4)
    before = images.clone()
    strong_augment(images, keys(4), STRONG)
    assert torch.equal(images, before)


def test_no_strength_is_the_identity() -> None:
    torch.testing.assert_close(strong_augment(batch(4), keys(4), NOTHING), batch(4), atol=2e-6, rtol=0)


def test_gray_view_keeps_the_luma() -> None:
    images = batch(4)
    gray = strong_augment(images, keys(4), StrongConfig(jitter_prob=0.0, gray_prob=1.0, blur_prob=0.0))
    luma = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    torch.testing.assert_close(gray, luma[:, None].expand(-1, 3, -1, -1), atol=2e-6, rtol=0)


def test_hue_turn_keeps_the_luma_and_whites() -> None:
    images = 0.3 + 0.3 * batch(6)
    turned = strong_augment(images, keys(6), HUE_ONLY)
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((weights * turned).sum(1), (weights * images).sum(1), atol=1e-5, rtol=0)
    assert (turned - images).abs().max() > 0.01
    white = torch.ones(6, 3, 8, 8)
    changed = strong_augment(white, keys(6), HUE_ONLY)
    torch.testing.assert_close(changed, white, atol=1e-3, rtol=0)  # NTSC's constants are rounded to 4 digits


def test_blur_keeps_constants_and_smooths() -> None:
    blur = StrongConfig(
        jitter_prob=0.0, gray_prob=0.0, blur_prob=1.0, blur_min_sigma_frac=0.03, blur_max_sigma_frac=0.03
    )
    constant = torch.full((2, 3, 32, 32), 0.25)
    torch.testing.assert_close(strong_augment(constant, keys(2), blur), constant)
    noisy = batch(2)
    assert strong_augment(noisy, keys(2), blur).var() < 0.3 * noisy.var()
    point = torch.zeros(1, 3, 33, 33)
    point[:, :, 16, 16] = 1
    spread = strong_augment(point, keys(1), blur)
    torch.testing.assert_close(spread.sum(), point.sum())
    torch.testing.assert_close(spread, spread.flip(-1), atol=1e-7, rtol=0)
    torch.testing.assert_close(spread, spread.transpose(-1, -2), atol=1e-7, rtol=0)
    # Neighbour over centre of a Gaussian of sigma s is exp(-1 / 2 s^2); s = 0.03 * 33 px.
    assert (spread[0, 0, 16, 17] / spread[0, 0, 16, 16]).item() == pytest.approx(0.6004, abs=1e-3)


def test_shares_of_gray_and_blur_are_the_probabilities() -> None:
    images = batch(1, side=9).expand(2000, -1, -1, -1)
    changed = strong_augment(images, keys(2000), StrongConfig(jitter_prob=0.0, gray_prob=0.25, blur_prob=0.0))
    is_gray = (changed.amax(1) - changed.amin(1)).amax((1, 2)) < 1e-4
    assert 0.2 < is_gray.float().mean() < 0.3


def test_weak_flip_mirrors_image_and_words_together() -> None:
    images = batch(40, side=5)
    expressions = ["left cat", "cat", "right-handed man", "cat at 3 o'clock"] * 10
    mirrored, texts, flipped = weak_flip(images, expressions, keys(40))
    assert 0 < flipped.sum() < 20
    for i in range(40):
        assert torch.equal(mirrored[i], images[i].flip(-1) if flipped[i] else images[i])
        assert texts[i] == (swap_left_right(expressions[i]) if flipped[i] else expressions[i])
    assert not flipped[2::4].any() and not flipped[3::4].any()


def test_weak_flip_depends_on_the_own_key_only() -> None:
    images, names = batch(12, side=5), keys(12)
    flipped = weak_flip(images, ["cat"] * 12, names)[2]
    assert 0 < flipped.sum() < 12
    for i in range(12):
        assert weak_flip(images[i : i + 1], ["cat"], names[i : i + 1])[2].item() == flipped[i]


def test_weak_flip_probabilities() -> None:
    images = batch(8, side=5)
    assert not weak_flip(images, ["left"] * 8, keys(8), prob=0.0)[2].any()
    assert weak_flip(images, ["left"] * 8, keys(8), prob=1.0)[2].all()


def test_flip_where_is_its_own_inverse_for_any_map() -> None:
    flipped = torch.tensor([True, False, True])
    for maps in (torch.rand(3, 4, 4), torch.rand(3, 2, 4, 4), torch.rand(3, 6)):
        once = flip_where(maps, flipped)
        assert torch.equal(once[0], maps[0].flip(-1)) and torch.equal(once[1], maps[1])
        assert torch.equal(flip_where(once, flipped), maps)


def square(num: int, top: int, left: int, bottom: int, right: int, grid: int = 8) -> torch.Tensor:
    cells = torch.zeros(num, grid, grid, dtype=torch.bool)
    cells[:, top:bottom, left:right] = True
    return cells


def test_boxes_of_cells() -> None:
    cells = square(3, 2, 1, 4, 6)
    cells[1] = False
    cells[2, 7, 7] = True
    assert cell_boxes(cells) == [(2, 1, 4, 6), (0, 0, 0, 0), (2, 1, 8, 8)]


def test_a_crop_keeps_the_referent_and_moves_image_and_maps_alike() -> None:
    num, grid = 24, 8
    keep = square(num, 5, 1, 7, 3)
    images = keep.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, 3, -1, -1).float()
    target = keep.float()
    seen, (mask, ones), cropped = weak_crop(
        images, [target, torch.ones(num, grid, grid)], keep, ["red cup"] * num, keys(num), prob=0.7
    )
    assert 8 < cropped.sum() < 23
    torch.testing.assert_close(ones, torch.ones(num, grid, grid))
    for row in range(num):
        if not cropped[row]:
            assert torch.equal(seen[row], images[row]) and torch.equal(mask[row], target[row])
            continue
        # Nothing of the object is lost, so it covers as many pixels as before or more; image and map agree.
        assert mask[row].sum() >= target[row].sum() - 1e-3
        coarse = torch.nn.functional.avg_pool2d(seen[row, :1], 4)[0]
        assert (coarse - mask[row]).abs().mean() < 0.03


def test_a_crop_of_known_place_and_size() -> None:
    # The referent fills rows 0-3 and columns 4-7; sides of at least 1/2 leave a window of 4 to 8 cells.
    keep, ramp = square(1, 0, 4, 4, 8), torch.arange(8.0).expand(1, 8, 8)
    sides = set()
    for key in keys(60):
        _, (columns,), cropped = weak_crop(torch.zeros(1, 3, 8, 8), [ramp], keep, ["cup"], [key], 1.0, 0.5)
        assert cropped.item()
        # Cell centres of a window of side s from x0 lie at x0 + (j + 1/2) s/8 - 1/2.
        side = 8 * (columns[0, 0, 4] - columns[0, 0, 3]).item()
        left = columns[0, 0, 4].item() + 0.5 - 4.5 * side / 8
        assert side == pytest.approx(round(side), abs=1e-4) and left == pytest.approx(8 - round(side), abs=1e-3)
        sides.add(round(side))
    assert sides == {4, 5, 6, 7, 8}, "the window must reach column 8, whatever its side"


@pytest.mark.parametrize(("expression", "known"), [("left cup", True), ("cup near the plate", True), ("cup", False)])
def test_a_crop_is_refused_by_words_and_where_no_referent_is_known(expression: str, known: bool) -> None:
    keep = square(8, 2, 2, 5, 5) & known
    images, target = batch(8, side=16), torch.rand(8, 8, 8)
    seen, (same,), cropped = weak_crop(images, [target], keep, [expression] * 8, keys(8), prob=1.0)
    assert not cropped.any() and torch.equal(seen, images) and torch.equal(same, target)


def test_a_crop_depends_on_the_own_key_only() -> None:
    images, target, keep = batch(9, side=16), torch.rand(9, 8, 8), square(9, 2, 3, 5, 5)
    seen, (mask,), cropped = weak_crop(images, [target], keep, ["cup"] * 9, keys(9), prob=0.5)
    assert 0 < cropped.sum() < 9
    for i in range(9):
        one, (own,), _ = weak_crop(
            images[i : i + 1], [target[i : i + 1]], keep[i : i + 1], ["cup"], keys(9)[i : i + 1], 0.5
        )
        assert torch.equal(one[0], seen[i]) and torch.equal(own[0], mask[i])


def test_a_paste_covers_the_donors_object_and_nothing_else() -> None:
    images, donors = batch(6, side=16), batch(6, side=16) + 1
    keep, theirs = square(6, 1, 1, 3, 3), square(6, 4, 5, 7, 8)
    theirs[:, 5, 6] = False  # of a hole nothing is known
    seen, pasted = paste(images, keep, ["red car"] * 6, donors, theirs, ["brown dog"] * 6, keys(6), prob=1.0)
    assert torch.equal(pasted, theirs)
    shown = torch.zeros(16, 16, dtype=torch.bool)
    shown[8:14, 10:16] = True
    shown[10:12, 12:14] = False
    assert torch.equal(seen[..., shown], donors[..., shown]) and torch.equal(seen[..., ~shown], images[..., ~shown])


def test_a_paste_where_the_grid_does_not_divide_the_image() -> None:
    # 136 cells of 3.5 px. Rows 68 to 118 are pixels 238 to 416.5, columns 85 to 135 pixels 297.5 to 476.
    images = batch(1, side=476)
    keep, theirs = square(1, 10, 10, 40, 40, grid=136), square(1, 68, 85, 119, 136, grid=136)
    seen, pasted = paste(images, keep, ["red car"], images + 1, theirs, ["brown dog"], keys(1), prob=1.0)
    assert torch.equal(pasted, theirs)
    shown = torch.zeros(476, 476, dtype=torch.bool)
    shown[238:416, 297:] = True  # the pixels whose centres lie there
    assert torch.equal(seen[0, 0] > 1, shown)


@pytest.mark.parametrize(
    ("own", "other", "expression", "pasted"),
    [
        ((1, 1, 3, 3), (3, 3, 6, 6), "red car", "brown dog"),  # touches the referent
        ((1, 1, 3, 3), (2, 2, 6, 6), "red car", "brown dog"),  # covers a part of it
        ((1, 1, 3, 3), (4, 4, 6, 6), "red car", "old car"),  # would be two cars
        ((1, 1, 3, 3), (4, 4, 6, 6), "second car", "brown dog"),
        ((0, 0, 0, 0), (4, 4, 6, 6), "red car", "brown dog"),  # the referent is not known
        ((1, 1, 3, 3), (0, 0, 0, 0), "red car", "brown dog"),  # nothing to paste
    ],
)
def test_a_paste_is_refused(own: tuple[int, ...], other: tuple[int, ...], expression: str, pasted: str) -> None:
    images = batch(2, side=16)
    args = square(2, *own), [expression] * 2, images + 1, square(2, *other), [pasted] * 2, keys(2)
    seen, cells = paste(images, *args, prob=1.0)
    assert not cells.any() and torch.equal(seen, images)


def test_pastes_are_as_frequent_as_asked_and_keyed() -> None:
    num = 400
    images, keep, theirs = torch.zeros(num, 3, 8, 8), square(num, 0, 0, 2, 2), square(num, 4, 4, 6, 6)
    cells = paste(images, keep, ["cup"] * num, images + 1, theirs, ["dog"] * num, keys(num), prob=0.3)[1]
    chosen = cells.flatten(1).any(1)
    assert 0.24 < chosen.float().mean() < 0.36
    alone = [
        paste(images[:1], keep[:1], ["cup"], images[:1] + 1, theirs[:1], ["dog"], [k], 0.3)[1].any() for k in keys(9)
    ]
    assert alone == chosen[:9].tolist()
