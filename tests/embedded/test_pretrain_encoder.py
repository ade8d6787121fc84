"""The pretraining from an empty folder to an encoder that loads, and its continuation after a stop."""

import argparse
import json

import pytest
import torch

from l2l_ray.embedded import pool as scene_pool
from l2l_ray.embedded import pretrain_encoder
from l2l_ray.embedded.encoder_model import tiny_config
from l2l_ray.segmenter.backbone import Backbone
from l2l_ray.segmenter.fusion import Fusion
from l2l_ray.segmenter.text import TextEncoder


@pytest.fixture(scope="module")
def work_dir(tmp_path_factory):
    """Return a work folder with small pools: 8 held-out and 16 training scenes."""
    work_dir = tmp_path_factory.mktemp("work")
    patch = pytest.MonkeyPatch()
    patch.setattr(scene_pool, "CHUNK_SCENES", 8)
    patch.setattr(pretrain_encoder, "HELD_OUT_SCENES", 8)
    patch.setattr(pretrain_encoder, "EVALUATED_IMAGES", 8)
    scene_pool.build(work_dir / "pool", 24, 96)
    scene_pool.build(work_dir / "pool_refshapes", 8, 96, "refshapes", 101, None)
    yield work_dir
    patch.undo()


def options(work_dir, out, samples):
    parser = argparse.ArgumentParser()
    pretrain_encoder.add_arguments(parser)
    arguments = ["--work-dir", str(work_dir), "--out", str(out), "--samples", str(samples), "--scenes", "24"]
    few = ["--batch-images", "4", "--expressions", "2", "--dense-frac", "0", "--eval-minutes", "100"]
    return parser.parse_args([*arguments, *few])


def test_trains_exports_and_continues(work_dir, tmp_path):
    pretrain_encoder.main(options(work_dir, tmp_path, samples=16))
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [row["samples"] for row in log] == [16]
    assert log[0]["step"] == 2
    assert 0 <= log[0]["own"]["match_pointing"] <= 1
    assert set(log[0]["train"]) == {"dense1", "dense2", "dense3", "match", "region"}

    config = tiny_config(tmp_path, pretrained=True)
    backbone, text = Backbone(config), TextEncoder(config)
    fusion = Fusion(config, backbone.channels[2], text.width)
    stored = torch.load(work_dir / "checkpoint.pt", weights_only=True)["average"]
    for part, module in {"backbone": backbone, "text": text, "fusion": fusion}.items():
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, stored[f"{part}.{name}"])

    pretrain_encoder.main(options(work_dir, tmp_path, samples=32))
    log = [json.loads(line) for line in (tmp_path / "training_log.jsonl").read_text().splitlines()]
    assert [(row["step"], row["samples"]) for row in log] == [(2, 16), (4, 32)]


def test_schedule_ends_with_the_samples_or_the_minutes_whichever_is_first(work_dir, tmp_path):
    args = options(work_dir, tmp_path, samples=100)
    pretrain_encoder.write_architecture(tmp_path, ["left red circle"])
    run = pretrain_encoder.Run(args, pretrain_encoder.Pretraining(tiny_config(tmp_path)))
    run.state.samples, run.state.seconds = 25, 0.6 * args.minutes * 60
    assert run.progress == pytest.approx(0.6)
    run.state.samples = 80
    assert run.progress == pytest.approx(0.8)
    run.state.samples = 300
    assert run.progress == 1.0
