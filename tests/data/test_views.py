"""Views: keyed determinism, exact colour effects, mirroring of images, maps and words."""

import pytest
import torch

from l2l_ray.data.views import StrongStrength, flip_where, strong_view, swap_left_right, weak_flip
from l2l_ray.keys import sample_key

NOTHING = StrongStrength(jitter_prob=0.0, gray_prob=0.0, blur_prob=0.0)


def batch(num: int, side: int = 33) -> torch.Tensor:
    return torch.rand(num, 3, side, side, generator=torch.Generator().manual_seed(1))


def keys(num: int) -> list[int]:
    return [sample_key(0, "test", i) for i in range(num)]


def test_strong_view_depends_on_the_own_key_only() -> None:
    images, names = batch(9), keys(9)
    views = strong_view(images, names)
    assert views.shape == images.shape and 0 <= views.min() and views.max() <= 1
    order = [5, 0, 8, 2]
    assert torch.equal(strong_view(images[order], [names[i] for i in order]), views[order])
    for i in range(9):
        assert torch.equal(strong_view(images[i : i + 1], names[i : i + 1])[0], views[i])


def test_strong_view_changes_and_varies() -> None:
    images = batch(1).expand(16, -1, -1, -1)
    views = strong_view(images, keys(16))
    assert len({view.sum().item() for view in views}) >= 15
    assert ((views - images).abs().amax(dim=(1, 2, 3)) > 0.02).sum() >= 14


def test_strong_view_leaves_its_input_alone() -> None:
    images = batch(4)
    before = images.clone()
    strong_view(images, keys(4))
    assert torch.equal(images, before)


def test_no_strength_is_the_identity() -> None:
    torch.testing.assert_close(strong_view(batch(4), keys(4), NOTHING), batch(4), atol=2e-6, rtol=0)


def test_gray_view_keeps_the_luma() -> None:
    images = batch(4)
    gray = strong_view(images, keys(4), StrongStrength(jitter_prob=0.0, gray_prob=1.0, blur_prob=0.0))
    luma = 0.299 * images[:, 0] + 0.587 * images[:, 1] + 0.114 * images[:, 2]
    torch.testing.assert_close(gray, luma[:, None].expand(-1, 3, -1, -1), atol=2e-6, rtol=0)


def test_hue_turn_keeps_the_luma_and_whites() -> None:
    images = 0.3 + 0.3 * batch(6)
    turned = strong_view(
        images, keys(6), StrongStrength(1.0, 0.0, 0.0, 0.0, hue_turns=0.05, gray_prob=0.0, blur_prob=0.0)
    )
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    torch.testing.assert_close((weights * turned).sum(1), (weights * images).sum(1), atol=1e-5, rtol=0)
    assert (turned - images).abs().max() > 0.01
    white = torch.ones(6, 3, 8, 8)
    view = strong_view(white, keys(6), StrongStrength(1.0, 0.0, 0.0, 0.0, 0.05, 0.0, 0.0))
    torch.testing.assert_close(view, white, atol=1e-3, rtol=0)  # NTSC's constants are rounded to 4 digits


def test_blur_keeps_constants_and_smooths() -> None:
    blur = StrongStrength(jitter_prob=0.0, gray_prob=0.0, blur_prob=1.0, blur_sigma_frac=(0.03, 0.03))
    constant = torch.full((2, 3, 32, 32), 0.25)
    torch.testing.assert_close(strong_view(constant, keys(2), blur), constant)
    noisy = batch(2)
    assert strong_view(noisy, keys(2), blur).var() < 0.3 * noisy.var()
    point = torch.zeros(1, 3, 33, 33)
    point[:, :, 16, 16] = 1
    spread = strong_view(point, keys(1), blur)
    torch.testing.assert_close(spread.sum(), point.sum())
    torch.testing.assert_close(spread, spread.flip(-1), atol=1e-7, rtol=0)
    torch.testing.assert_close(spread, spread.transpose(-1, -2), atol=1e-7, rtol=0)
    # Neighbour over centre of a Gaussian of sigma s is exp(-1 / 2 s^2); s = 0.03 * 33 px.
    assert (spread[0, 0, 16, 17] / spread[0, 0, 16, 16]).item() == pytest.approx(0.6004, abs=1e-3)


def test_shares_of_gray_and_blur_are_the_probabilities() -> None:
    images = batch(1, side=9).expand(2000, -1, -1, -1)
    views = strong_view(images, keys(2000), StrongStrength(jitter_prob=0.0, gray_prob=0.25, blur_prob=0.0))
    is_gray = (views.amax(1) - views.amin(1)).amax((1, 2)) < 1e-4
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


@pytest.mark.parametrize(
    ("expression", "mirrored"),
    [
        ("left man", "right man"),
        ("2nd from the right, in red", "2nd from the left, in red"),
        ("LEFT Right leftmost", "RIGHT Left rightmost"),
        ("far right", "far left"),
        ("man on right behind bench", "man on left behind bench"),
        ("cup to the left of the bright light", "cup to the right of the bright light"),
        ("bottomright corner", "bottomleft corner"),
        ("leftest giraffe at night", "rightest giraffe at night"),
        ("person on the left-hand side", "person on the right-hand side"),
        ("the dog that is left of the cat", "the dog that is right of the cat"),
        ("her left hand", "her right hand"),
        ("upright bear leftside", "upright bear rightside"),
        ("second circle counting from the left of the picture", "second circle counting from the right of the picture"),
        ("the disc that is in the bottom left part", "the disc that is in the bottom right part"),
        ("red car", "red car"),
        ("", ""),
    ],
)
def test_swap(expression: str, mirrored: str) -> None:
    assert swap_left_right(expression) == mirrored
    assert swap_left_right(mirrored) == expression


@pytest.mark.parametrize(
    "expression",
    [
        "left-handed batter",
        "right handed player",
        "the man to look at right now",
        "all right",
        "alright guy",
        "right next to the dog",
        "man right behind the bench",
        "the slice that is left",
        "what's left",
        "leftt man",
        "rihgt cup",
        "man on l",
        "rt guy",
        "leftguy",
        "slice at 4 o clock",
        "slice at 4 o'clock",
        "slice at 4 oclock",  # codespell:ignore oclock
        "book that says europe",
        "player number 8 on left",
        "\u5de6\u8fb9\u7684\u4eba",
    ],
)
def test_unclear_expressions_are_not_swapped(expression: str) -> None:
    assert swap_left_right(expression) is None
