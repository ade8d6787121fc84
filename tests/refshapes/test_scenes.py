import numpy as np
import pytest

from l2l_ray.refshapes.scenes import (
    CATEGORY_IDS,
    COLORS,
    DEFAULT_PLANS,
    MIN_VISIBLE_FRAC,
    SHAPES,
    SIZE_WORDS,
    TEXTURES,
    Domain,
    ScenePlan,
    mask_box_xyxy,
    render_scene,
)

DOMAINS: tuple[Domain, ...] = ("pretrain", "refshapes")


def _scenes(domain, num=30, **kwargs):
    return [render_scene(np.random.default_rng([3, i]), domain, **kwargs) for i in range(num)]


@pytest.mark.parametrize("domain", DOMAINS)
def test_same_seed_gives_the_same_scene(domain):
    first, second = (render_scene(np.random.default_rng(5), domain) for _ in range(2))
    assert first.objects == second.objects
    assert np.array_equal(first.image, second.image)
    assert np.array_equal(first.masks, second.masks)


@pytest.mark.parametrize("domain", DOMAINS)
def test_arrays_agree_with_one_another(domain):
    for scene in _scenes(domain, size_px=(112, 136)):
        num = len(scene.objects)
        assert 4 <= num <= 9
        assert scene.image.shape == (112, 136, 3) and scene.image.dtype == np.uint8
        assert scene.masks.shape == (num, 112, 136) and scene.masks.dtype == np.bool_
        assert scene.masks.any((1, 2)).all()
        assert scene.masks.sum(0).max() == 1, "masks are disjoint"
        for mask, (x1, y1, x2, y2) in zip(scene.masks, scene.boxes_xyxy_px.astype(int), strict=True):
            assert mask[y1:y2, x1:x2].sum() == mask.sum()
            assert mask[y1].any() and mask[y2 - 1].any() and mask[:, x1].any() and mask[:, x2 - 1].any()
        for obj in scene.objects:
            assert (
                obj.shape in SHAPES and obj.color in COLORS and obj.texture in TEXTURES and obj.size_word in SIZE_WORDS
            )
            assert obj.category_id == CATEGORY_IDS[obj.shape]
        assert scene.visible_frac.min() >= MIN_VISIBLE_FRAC


def test_hidden_pixels_are_what_visibility_lacks():
    for scene in _scenes("refshapes"):
        full_px = scene.masks.sum((1, 2)) / scene.visible_frac
        lost_px = full_px - scene.masks.sum((1, 2))
        assert np.all(lost_px <= scene.hidden_px.sum(0) + 0.01), "every lost pixel has something in front of it"
        assert np.all(lost_px >= scene.hidden_px.max(0) - 0.01)
        assert not np.triu(scene.hidden_px).any(), "objects are ordered back to front"


def test_only_refshapes_has_occlusion():
    assert all(scene.visible_frac.min() == 1.0 for scene in _scenes("pretrain"))
    occluded = np.concatenate([scene.visible_frac < 0.97 for scene in _scenes("refshapes")])
    assert 0.2 < occluded.mean() < 0.7


@pytest.mark.parametrize("attribute", ["shape", "color"])
def test_one_attribute_alone_rarely_tells_an_object(attribute):
    shared = []
    for scene in _scenes("refshapes", num=60):
        names = [getattr(obj, attribute) for obj in scene.objects]
        shared += [names.count(name) > 1 for name in names]
    assert np.mean(shared) > 0.7


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_lies_around_its_center_within_its_radius(shape):
    plan = ScenePlan(num_objects=(6, 6), twin_frac=0.0, focus_shapes=(shape,))
    seen = 0
    for scene in _scenes("pretrain", num=4, plan=plan):
        for obj, mask in zip(scene.objects, scene.masks, strict=True):
            if obj.shape == shape and obj.size_word != "small":
                seen += 1
                x, y = obj.center_xy_px
                ys, xs = np.nonzero(mask)
                assert 0.8 * obj.radius_px < np.hypot(xs + 0.5 - x, ys + 0.5 - y).max() < 1.2 * obj.radius_px
                if shape not in ("ring", "crescent"):
                    assert mask[int(y), int(x)]
    assert seen > 0


def test_mask_box_has_exclusive_far_edges():
    mask = np.zeros((8, 10), dtype=bool)
    mask[2, 3] = True
    assert mask_box_xyxy(mask).tolist() == [3, 2, 4, 3]
    mask[7, 9] = True
    assert mask_box_xyxy(mask).tolist() == [3, 2, 10, 8]


def test_the_domains_share_names_but_not_looks():
    assert set(DEFAULT_PLANS) == set(DOMAINS)
    means = {domain: np.mean([scene.image.std() for scene in _scenes(domain)]) for domain in DOMAINS}
    assert means["pretrain"] != pytest.approx(means["refshapes"], rel=0.02)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="at least 48"):
        render_scene(np.random.default_rng(0), "pretrain", 32)
