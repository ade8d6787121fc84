"""Photometric augmentation: range, keyed randomness, one draw per sample, colors still told apart."""

import torch

from l2l_ray.embedded.augment import photometric


def augment(images, seed=0):
    return photometric(images, torch.Generator().manual_seed(seed))


def test_result_is_an_image_and_depends_on_the_seed_alone():
    images = torch.rand(5, 3, 64, 64)
    first = augment(images)
    assert first.shape == images.shape
    assert first.min() >= 0
    assert first.max() <= 1
    assert torch.equal(first, augment(images))
    assert not torch.equal(first, augment(images, seed=1))


def test_equal_images_of_a_batch_are_changed_differently():
    changed = augment(torch.full((4, 3, 32, 32), 0.5)).mean((2, 3))
    assert torch.cdist(changed, changed)[~torch.eye(4, dtype=torch.bool)].min() > 1e-3


def test_red_stays_redder_than_blue():
    red = torch.tensor([0.9, 0.1, 0.1]).view(1, 3, 1, 1).expand(64, 3, 32, 32)
    changed = augment(red).mean((2, 3))
    assert ((changed[:, 0] > changed[:, 2]).float().mean()) > 0.98
