"""The pretraining's shortcuts give what the model itself gives, and a run can be stopped, continued and loaded."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer

from l2l_ray.config import PriorConfig
from l2l_ray.embedded import pool as scene_pool
from l2l_ray.embedded import pretrain_mllm
from l2l_ray.embedded.pretrain_mllm_fast import FastLanguage, FastVision
from l2l_ray.embedded.pretrain_mllm_losses import AnswerLoss, box_coverage, pair_iou, patch_centers, scene_batch
from l2l_ray.embedded.pretrain_mllm_model import CHAT_TEMPLATE, NUM_VISUAL, build_model, build_tokenizer
from l2l_ray.embedded.pretrain_mllm_sequences import SequenceMaker
from l2l_ray.prior.mllm import EMBEDDED_FOLDER, MllmPrior
from l2l_ray.prior.processing import load_processor
from l2l_ray.prior.prompt import QWEN_RELATIVE

ROWS = np.array([0, 9, 40])


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """Return a work folder with 8 scenes for training and 8 for each evaluation."""
    work_dir = tmp_path_factory.mktemp("work")
    patch = pytest.MonkeyPatch()
    patch.setattr(scene_pool, "CHUNK_SCENES", 8)
    patch.setattr(pretrain_mllm, "VAL_SCENES", 8)
    scene_pool.build(work_dir / "pool", 8, 128)
    yield work_dir
    patch.undo()


@pytest.fixture(scope="module")
def pool(work_dir):
    return scene_pool.load(work_dir / "pool")


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(EMBEDDED_FOLDER)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = build_model(tokenizer).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(3 if weight.ndim > 1 else 1)  # at their initial size the attention would hardly matter
    return model


def test_sequences_are_what_the_processor_makes(pool, tokenizer) -> None:
    sequences = SequenceMaker(tokenizer, pool).batch(ROWS, with_answer=False)
    processor = load_processor(str(EMBEDDED_FOLDER), {})
    chats = [
        processor.apply_chat_template(
            QWEN_RELATIVE.messages(pool.texts[row]), tokenize=False, add_generation_prompt=True
        )
        for row in ROWS
    ]
    images = [Image.fromarray(pool.images[pool.scene_index[row]]) for row in ROWS]
    inputs = processor(images=images, text=chats, padding=True, return_tensors="pt")
    real = sequences.attention_mask.bool()
    assert [ids[mask].tolist() for ids, mask in zip(sequences.input_ids, real, strict=True)] == [
        ids[mask.bool()].tolist() for ids, mask in zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    ]
    batch = scene_batch(pool, pool.scene_index[ROWS], None)
    torch.testing.assert_close(batch.patches, inputs["pixel_values"], atol=1e-6, rtol=0)


def test_answers_decode_to_the_json_of_the_true_box(pool, tokenizer) -> None:
    maker = SequenceMaker(tokenizer, pool)
    for row, ids in zip(ROWS, maker.batch(ROWS).answer, strict=True):
        scene, index = pool.scene_index[row], pool.object_index[row]
        shape, color = (
            names[pool.attributes[scene, index, i]]
            for i, names in enumerate((scene_pool.ATTRIBUTE_NAMES["shape"], scene_pool.ATTRIBUTE_NAMES["color"]))
        )
        (item,) = json.loads(tokenizer.decode(ids, skip_special_tokens=True))
        assert item["label"] == f"{color} {shape}"
        assert item["bbox_2d"] == pytest.approx(1000 * pool.boxes_xyxy_frac[scene, index], abs=5.01)


def test_positions_are_those_of_the_model(pool, tokenizer, model) -> None:
    maker = SequenceMaker(tokenizer, pool)
    sequences = maker.batch(ROWS)
    expected, _ = model.model.get_rope_index(
        sequences.input_ids,
        (sequences.input_ids == maker.image_id).int(),
        image_grid_thw=torch.tensor([[1, 16, 16]] * len(ROWS)),
        attention_mask=sequences.attention_mask,
    )
    real = sequences.attention_mask.bool()
    assert torch.equal(expected[:, real], sequences.position_ids[:, real])


def test_the_fast_forward_pass_is_the_models_own(pool, tokenizer, model) -> None:
    maker = SequenceMaker(tokenizer, pool)
    sequences, batch = maker.batch(ROWS), scene_batch(pool, pool.scene_index[ROWS], None)
    with torch.no_grad():
        tokens, levels = FastVision(model, compiled=False)(batch.patches)
        visual, *deepstack = (part.view(len(ROWS), NUM_VISUAL, -1) for part in (tokens, *levels))
        hidden = FastLanguage(model, compiled=False)(sequences, visual, deepstack)
        output = model(
            input_ids=sequences.input_ids,
            attention_mask=sequences.attention_mask,
            pixel_values=batch.patches,
            image_grid_thw=torch.tensor([[1, 16, 16]] * len(ROWS)),
            mm_token_type_ids=(sequences.input_ids == maker.image_id).int(),
        )
    real = sequences.attention_mask.bool()
    torch.testing.assert_close(model.lm_head(hidden[-1])[real], output.logits[real], atol=1e-4, rtol=1e-4)
    assert output.logits[real].std() > 0.1


def test_any_text_has_an_encoding_and_numbers_are_single_tokens() -> None:
    built = build_tokenizer(["the red star left of a circle"] * 20, ["red star", "blue ring"])
    text = "naïve Ünïcode <b> 12345 ☃\n\t"
    assert built.decode(built.encode(text)) == text
    assert all(len(built.encode(str(number))) == 1 for number in range(0, 1001, 10))
    assert built.chat_template == CHAT_TEMPLATE


def test_coverage_counts_the_share_of_each_patch() -> None:
    coverage = box_coverage(torch.tensor([[0.0, 0.0, 1.5 / 16, 1 / 16], [0.0, 0.0, 1.0, 1.0]]))
    assert coverage[0, :4].tolist() == pytest.approx([1.0, 0.5, 0.0, 0.0])  # first token: two patches, two below
    assert coverage[0].sum().item() == pytest.approx(1.5)
    assert coverage[1].tolist() == pytest.approx([1.0] * 256)
    assert patch_centers()[4].tolist() == pytest.approx([2.5 / 16, 0.5 / 16])  # second token, first row


def test_iou_of_pairs() -> None:
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.5]])
    others = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.0, 0.75, 0.5], [0.6, 0.6, 0.9, 0.9]])
    assert pair_iou(boxes, others).tolist() == pytest.approx([1.0, 1 / 3, 0.0])


def test_near_misses_cost_less_than_far_ones(pool, tokenizer) -> None:
    maker = SequenceMaker(tokenizer, pool)
    sequences = maker.batch(ROWS[:1])
    loss = AnswerLoss(torch.from_numpy(maker.coordinate_ids), torch.ones(13), maker.is_coordinate)

    def cost(shift: int) -> float:
        steps = (sequences.values.round().long() + shift).clamp(0, 100)
        said = sequences.answer.clone()
        said[:, maker.is_coordinate] = torch.from_numpy(maker.coordinate_ids)[steps]
        logits = 5.0 * torch.nn.functional.one_hot(said, len(tokenizer)).float()
        return loss(logits, sequences.answer, sequences.values, 2.0)[0].item()

    assert cost(0) < cost(2) < cost(9)


def test_a_run_exports_continues_and_evaluates(work_dir, tmp_path, caplog) -> None:
    def run(*more: str) -> None:
        parser = argparse.ArgumentParser()
        pretrain_mllm.add_arguments(parser)
        small = ["--scenes", "8", "--scenes-per-step", "2", "--expressions-per-scene", "2", "--eval-scenes", "2"]
        pretrain_mllm.main(
            parser.parse_args(
                ["--work-dir", str(work_dir), "--out", str(tmp_path), "--dense-samples", "1", *small, *more]
            )
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain_mllm, "DENSE_STEP_SCENES", 4)
        run("--samples", "8")
        run("--samples", "12")
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["samples"]) for row in log] == [(2, 8), (3, 12)]
    assert all(0 <= row[f"{domain}_no_box"] <= 1 for row in log for domain in ("pretrain", "refshapes"))
    stored = torch.load(work_dir / "checkpoint.pt", weights_only=True)
    assert stored["progress"]["stage"] == "answer"
    loaded = MllmPrior.load(PriorConfig(model=str(tmp_path), dtype="float32")).model.state_dict()
    for name, value in stored["model"].items():
        torch.testing.assert_close(loaded[name], value, atol=1e-3, rtol=1e-3)  # exported in half precision
    with caplog.at_level("INFO"):
        run("--evaluate")
    assert "refshapes: {'iou50'" in caplog.text


def test_the_learning_rate_warms_up_and_falls() -> None:
    warming, warm = pretrain_mllm.Progress("dense", step=49), pretrain_mllm.Progress("dense", step=1000)
    assert pretrain_mllm.learning_rate(warming, 0.0, 1.0) == pytest.approx(0.5)
    assert pretrain_mllm.learning_rate(warm, 1.0, 1.0) == pytest.approx(0.3)
    answer = pretrain_mllm.Progress("answer", step=1000)
    rates = [pretrain_mllm.learning_rate(answer, done, 2.0) for done in (0.0, 0.5, 1.0)]
    assert rates == pytest.approx([2.0, 1.02, 0.04])
