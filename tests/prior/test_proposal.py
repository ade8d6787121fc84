import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from l2l_ray.config import PriorConfig
from l2l_ray.errors import ConfigError
from l2l_ray.prior.proposal import (
    Proposer,
    mix,
    polygon_proposal,
    smooth_boxes,
)
from l2l_ray.prior.sam import SamProposer, image_part_on_grid
from l2l_ray.types import BoxFrac, Prior
from tests.proposals import box_proposal
from tests.tiny_models import tiny_sam2

LEFT: BoxFrac = (0.0, 0.0, 0.5, 1.0)
RIGHT: BoxFrac = (0.5, 0.0, 1.0, 1.0)
MIDDLE: BoxFrac = (0.25, 0.25, 0.75, 0.75)
SQUARE = ((0.25, 0.25), (0.75, 0.25), (0.75, 0.75), (0.25, 0.75))


def prior(*boxes: BoxFrac, scores: tuple[float, ...] | None = None, score: float = 0.8) -> Prior:
    return Prior("key", boxes, scores or (0.8,) * len(boxes), (), "thing", score, "", "")


def test_smooth_box_by_hand() -> None:
    # Box 0.25..0.75, softness 0.5: edge width 0.25, slope 1/0.25 at the edge, so the logistic's scale is 0.0625.
    # Cell centres of grid 4: 0.125, 0.375, ... : 2 scales outside / inside the near edge, 6 / 10 from the far one.
    inside = torch.sigmoid(torch.tensor(2.0)) * torch.sigmoid(torch.tensor(6.0))
    outside = torch.sigmoid(torch.tensor(-2.0)) * torch.sigmoid(torch.tensor(10.0))
    row = torch.stack([outside, inside, inside, outside])
    torch.testing.assert_close(smooth_boxes(torch.tensor(MIDDLE), 4, 0.5), row[:, None] * row[None, :])


def test_x_is_the_column() -> None:
    q = box_proposal([LEFT], [1.0], 8, 0.05)
    assert (q[2:6, :3] > 0.95).all() and (q[:, 5:] < 0.01).all()


def test_a_single_box_is_not_scaled_by_its_score() -> None:
    sure, unsure = box_proposal([MIDDLE], [0.9], 16, 0.08), box_proposal([MIDDLE], [0.01], 16, 0.08)
    torch.testing.assert_close(sure, unsure)
    assert sure.max() > 0.99


def test_candidates_are_mixed_by_relative_score() -> None:
    q = box_proposal([LEFT, RIGHT], [0.8, 0.2], 16, 0.02)
    torch.testing.assert_close(q[8, 3], torch.tensor(1.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(q[8, 12], torch.tensor(0.25), atol=1e-3, rtol=0)
    assert torch.equal(q, box_proposal([RIGHT, LEFT, LEFT], [0.2, 0.8, 0.8], 16, 0.02))  # order, repeats: no matter
    both = [LEFT, RIGHT]
    assert torch.equal(box_proposal(both, [0.0, 0.0], 8, 0.1), box_proposal(both, [0.5, 0.5], 8, 0.1))


def test_mix_is_the_weighted_maximum() -> None:
    candidates = torch.tensor([[[[0.2]], [[0.9]]]])
    torch.testing.assert_close(mix(candidates, torch.tensor([[1.0, 0.5]])), torch.tensor([[[0.45]]]))


def test_the_smallest_box_marks_its_cell() -> None:
    q = box_proposal([(0.53, 0.53, 0.531, 0.531)], [1.0], 8, 0.08)
    assert (q.argmax() // 8, q.argmax() % 8) == (4, 4) and q.max() > 0.9


def test_flipping_the_box_flips_the_proposal() -> None:
    box = (0.1, 0.2, 0.4, 0.9)
    flipped = (0.6, 0.2, 0.9, 0.9)
    torch.testing.assert_close(box_proposal([box], [1.0], 12, 0.1).flip(1), box_proposal([flipped], [1.0], 12, 0.1))


def test_batch_with_missing_priors() -> None:
    failed = Prior.absent("k", "no box", "?")
    batch = Proposer(PriorConfig()).proposals([prior(MIDDLE), None, failed, prior(LEFT, RIGHT, scores=(0.3, 0.6))], 16)
    assert batch.has_prior.tolist() == [True, False, False, True]
    torch.testing.assert_close(batch.score, torch.tensor([0.8, 0.0, 0.0, 0.8]))
    assert (batch.proposal[1:3] == 0.5).all()
    torch.testing.assert_close(batch.candidate_weight, torch.tensor([[1.0, 0], [0, 0], [0, 0], [0.5, 1]]))
    torch.testing.assert_close(batch.proposal[3], box_proposal([LEFT, RIGHT], [0.3, 0.6], 16, 0.08))
    torch.testing.assert_close(batch.candidates[3, 0], box_proposal([LEFT], [1.0], 16, 0.08))
    assert ((batch.proposal >= 0) & (batch.proposal <= 1)).all()


def test_a_batch_of_no_priors_at_all() -> None:
    batch = Proposer(PriorConfig(proposal="polygon")).proposals([None, None], 4)
    assert (batch.proposal == 0.5).all() and batch.candidates.shape == (2, 1, 4, 4)


def test_rows_do_not_depend_on_the_batch() -> None:
    priors = [prior(MIDDLE), prior(LEFT, RIGHT), None]
    proposer = Proposer(PriorConfig())
    whole = proposer.proposals(priors, 8).proposal
    alone = torch.cat([proposer.proposals([p], 8).proposal for p in priors])
    assert torch.equal(whole, alone)


def test_fast_enough_to_be_made_again_every_step() -> None:
    priors = [prior(MIDDLE, LEFT, scores=(0.9, 0.4)) for _ in range(256)]
    proposer = Proposer(PriorConfig())
    seconds = []
    for _ in range(7):
        started = time.perf_counter()
        proposer.proposals(priors, 32)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.02  # 5 ms on an idle core


def test_polygon_coverage_by_hand() -> None:
    expected = torch.zeros(8, 8)
    expected[2:6, 2:6] = 1
    assert torch.equal(polygon_proposal([SQUARE], 8), expected)
    assert torch.equal(polygon_proposal([SQUARE[::-1]], 8), expected)  # either direction
    thin = polygon_proposal([((0.25, 0.0), (0.3125, 0.0), (0.3125, 1.0), (0.25, 1.0))], 4)  # a quarter of column 1
    assert torch.equal(thin, torch.tensor([0, 0.25, 0, 0]).expand(4, 4))
    triangle = polygon_proposal([((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))], 16)
    assert abs(float(triangle.mean()) - 0.5) < 0.01
    assert abs(float(triangle[3, 12]) - 0.5) < 0.1  # a cell cut by the diagonal is half covered


def test_polygons_are_united_and_degenerate_ones_passed_over() -> None:
    assert torch.equal(polygon_proposal([SQUARE, SQUARE, ((0.9, 0.9), (1.0, 1.0))], 8), polygon_proposal([SQUARE], 8))
    assert polygon_proposal([()], 4).sum() == 0


def test_polygon_proposals_fall_back_to_boxes() -> None:
    drawn = replace(prior(LEFT, MIDDLE), polygons_xy_frac=(SQUARE,))
    only_polygon = replace(prior(), polygons_xy_frac=(SQUARE,), score=0.4)
    batch = Proposer(PriorConfig(proposal="polygon")).proposals([drawn, prior(LEFT), only_polygon, None], 8)
    assert torch.equal(batch.proposal[0], polygon_proposal([SQUARE], 8))
    assert torch.equal(batch.proposal[2], batch.proposal[0])
    torch.testing.assert_close(batch.proposal[1], box_proposal([LEFT], [1.0], 8, 0.08))
    assert batch.has_prior.tolist() == [True, True, True, False]
    assert batch.candidate_weight[0].tolist() == [1, 0]


def test_sam_needs_a_model_and_images() -> None:
    with pytest.raises(ConfigError, match="needs prior.sam_model"):
        Proposer(PriorConfig(proposal="sam"))
    with pytest.raises(ConfigError, match="cannot be loaded"):
        Proposer(PriorConfig(proposal="sam", sam_model="/nowhere/sam"))


def test_only_the_image_part_of_a_padded_mask_counts() -> None:
    probs = torch.zeros(1, 16, 16)
    probs[:, :8] = 1.0  # a 2:1 image fills the upper half; below is padding
    assert torch.equal(image_part_on_grid(probs, (64.0, 32.0), 64, 4), torch.ones(1, 4, 4))
    assert image_part_on_grid(probs, (64.0, 64.0), 64, 32).shape == (1, 32, 32)


def randomize(model: torch.nn.Module) -> Any:
    """The default initialisation is so small that every mask would be 0.5."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import SamConfig, SamMaskDecoderConfig, SamModel, SamPromptEncoderConfig, SamVisionConfig

    vision = SamVisionConfig(
        hidden_size=16,
        output_channels=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=64,
        patch_size=16,
        mlp_dim=16,
        window_size=2,
        num_pos_feats=16,
        global_attn_indexes=[0],
    )
    prompt = SamPromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=8
    )
    folder = tmp_path_factory.mktemp("sam")
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder))
    randomize(model).save_pretrained(folder)
    return folder


def images(num: int) -> list[Image.Image]:
    torch.manual_seed(1)
    return [Image.fromarray(torch.randint(0, 255, (40, 60, 3), dtype=torch.uint8).numpy()) for _ in range(num)]


def test_sam_proposals_through_the_auto_classes(sam_folder: Path) -> None:
    proposer = Proposer(PriorConfig(proposal="sam", sam_model=str(sam_folder), device="cpu"))
    with_point = replace(prior(LEFT, MIDDLE), key="p", points_xy_frac=((0.3, 0.5), (0.9, 0.9)))
    batch = proposer.proposals([prior(MIDDLE), with_point, None], 8, images(3))
    assert batch.proposal.shape == (3, 8, 8) and batch.candidates.shape == (3, 2, 8, 8)
    assert batch.has_prior.tolist() == [True, True, False]
    assert (batch.proposal[2] == 0.5).all()
    assert not torch.equal(batch.candidates[1, 0], batch.candidates[1, 1])  # each box is its own prompt
    assert ((batch.proposal >= 0) & (batch.proposal <= 1)).all()
    with pytest.raises(ConfigError, match="one image per prior, got no images for 1"):
        proposer.proposals([prior(MIDDLE)], 8)


def test_sam_masks_are_kept_by_prior_and_boxes(sam_folder: Path) -> None:
    sam = SamProposer.load(str(sam_folder), "cpu")
    image = images(1)[0]
    calls = 0
    forward = sam.model.forward

    def counting(*args: object, **kwargs: object) -> object:
        nonlocal calls
        calls += 1
        return forward(*args, **kwargs)

    sam.model.forward = counting
    first = sam.masks(prior(MIDDLE), image, 8)
    assert torch.equal(first, sam.masks(prior(MIDDLE), image, 8)) and calls == 1
    sam.masks(prior(LEFT), image, 8)
    assert calls == 2


def test_sam2_proposals() -> None:
    sam = SamProposer(randomize(tiny_sam2()))
    masks = sam.masks(replace(prior(LEFT, MIDDLE), points_xy_frac=((0.4, 0.4),)), images(1)[0], 8)
    assert masks.shape == (2, 8, 8) and not torch.equal(masks[0], masks[1])


def test_points_without_a_box_are_one_prompt_of_sam_and_nothing_to_the_others(sam_folder: Path) -> None:
    pointed = Prior("p", (), (), ((0.3, 0.5), (0.9, 0.9)), "", 0.7, "", "")
    proposer = Proposer(PriorConfig(proposal="sam", sam_model=str(sam_folder), device="cpu"))
    batch = proposer.proposals([pointed, prior(LEFT, MIDDLE)], 8, images(2))
    assert batch.has_prior.tolist() == [True, True] and batch.score[0] == pytest.approx(0.7)
    assert torch.equal(batch.proposal[0], batch.candidates[0, 0])
    elsewhere = replace(pointed, key="q", points_xy_frac=((0.1, 0.1),))
    other = proposer.proposals([elsewhere], 8, images(1))
    assert not torch.equal(batch.proposal[0], other.proposal[0])
    assert SamProposer(randomize(tiny_sam2())).masks(pointed, images(1)[0], 8).shape == (1, 8, 8)
    assert not Proposer(PriorConfig()).proposals([pointed], 8).has_prior.any()


def test_another_model_family_is_refused() -> None:
    from transformers import BertConfig, BertModel

    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
    tiny = BertModel(config)
    with pytest.raises(ConfigError, match="is a 'bert' model"):
        SamProposer(tiny)
