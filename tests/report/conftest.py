"""A fake run folder: the files a run leaves, with made-up figures and drawn examples."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw

from l2l_ray.report.panels import ExamplePanel, accepted_codes, write_examples
from l2l_ray.types import Candidate

LABELS = {
    "prior_only": "prior only (zero-shot)",
    "supervised": "supervised, with guidance",
    "accept_all": "accept all",
    "fixed_threshold": "fixed threshold",
    "scorer": "supervised scorer",
    "l2l": "L2L (RPLE)",
}
START = {name: 0.31 if name == "prior_only" else 0.41 for name in LABELS}
GAIN = dict(zip(LABELS, (0.0, 0.012, -0.015, 0.018, 0.026, 0.031), strict=True))
ROUNDS = 4


def summary(mean_iou: float, num: int = 500) -> dict[str, Any]:
    return {
        "overall_iou": mean_iou + 0.03,
        "mean_iou": mean_iou,
        "precision_at": {str(t): max(0.0, mean_iou + 0.55 - t) for t in (0.5, 0.6, 0.7, 0.8, 0.9)},
        "num": num,
    }


def quality(step: float, num: int = 256) -> dict[str, Any]:
    names = ("inside", "outside", "boundary", "all")
    accuracy, accepted = (0.72, 0.97, 0.61, 0.9), (0.55, 0.82, 0.31, 0.7)
    used = 0.6 + step
    return {
        "labels": {
            "num": num, "num_used": round(used * num), "used_frac": used, "mean_iou": 0.62 + step,
            "right_frac": 0.7 + step, "poor_outline_frac": 0.1, "wrong_object_frac": 0.2 - step,
            "mean_confidence": 0.58 + step, "num_right": round(0.5 * num), "right_refused_frac": 0.125,
        },
        "sources": {
            "guided": {"num_used": 3, "used_frac": 0.75, "right_frac": 1 / 3},
            "prior": {"num_used": 1, "used_frac": 0.25, "right_frac": 1.0},
        },
        "ordering": {
            "coverage": [0.5, 1.0], "best": {"area": 0.3, "risk": [0.2, 0.4]}, "random": {"area": 0.4},
            "gate": {"auc": 0.8 + step, "area": 0.35, "excess": 0.05, "relative_excess": 0.5, "risk": [0.3, 0.4]},
            "confidence": {"auc": None, "area": None, "excess": None, "relative_excess": None, "risk": None},
        },
        "object_precision": 0.7 + step,
        "object_recall": 0.4 + step,
        "accuracy_by_true_region": {name: min(0.99, v + step) for name, v in zip(names, accuracy, strict=True)},
        "accepted_by_true_region": {name: v + step for name, v in zip(names, accepted, strict=True)},
    }  # fmt: skip


def wrong_before(round_index: int) -> dict[str, Any]:
    figures = {"num": 400, "again_frac": 0.6, "same_mask_frac": 0.45}
    return {"wrong_before": figures} if round_index else {}


def val_of(method: str, version: int) -> float:
    return START[method] + GAIN[method] * version + 0.006 * ((version * 7 + len(method)) % 3 - 1)


def event_log() -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = [
        {"event": "priors", "set": name, "num": num, "asked": num, "failures": {"no box": num // 50, "not JSON": 2}}
        for name, num in (("labeled", 200), ("unlabeled", 3800), ("val", 500))
    ]
    events.append({"event": "evaluation", "method": "prior_only", "version": 0, "split": "val", **summary(0.31)})
    for method in list(LABELS)[1:]:
        for version in range(ROUNDS + 1):
            figures: dict[str, Any] = {}
            if version:
                figures = {"loss": 0.9 / version, "loss_labeled": 0.5 / version, "loss_unlabeled": 0.4 / version}
                if method != "supervised":
                    share = 0.5 + 0.05 * version + 0.02 * len(method) % 0.2
                    figures |= {"labels/num": 3800.0, "labels/used_frac": 0.61, "labels/accepted_frac": share}
            if method == "l2l":
                terms = {"label": 0.25, "cells": 0.6, "unlabeled": 0.02}
                figures |= {f"policy/reward/{k}": v * (1 + 0.3 * version) for k, v in terms.items()}
                figures |= {f"policy/term/{k}": 0.2 + 0.1 * version for k in ("agreement", "stability")}
                figures |= {"policy/loss": 0.02 / (version + 1), "policy/entropy": 0.9 / (version + 1)}
                figures |= {"policy/kept_share": 0.9, "policy/open_rate_labeled": 0.5 + 0.05 * version}
            events.append({"event": "train", "method": method, "version": version, **figures})
            event = {"event": "evaluation", "method": method, "version": version, "split": "val"}
            measured = {"quality": quality(0.02 * version)} if method == "l2l" else {}
            events.append({**event, **summary(val_of(method, version)), **measured})
    return events


def results() -> dict[str, Any]:
    rows = []
    for method, label in LABELS.items():
        version = 0 if method == "prior_only" else ROUNDS
        base = START[method] + GAIN[method] * version
        splits = {name: summary(base + shift) for name, shift in (("val", 0.0), ("testA", 0.02), ("testB", -0.03))}
        rows.append({"method": method, "label": label, "version": version, "steps": 60 * version, "splits": splits})
    return {
        "protocol": "native image size, every sentence, IoU 1 where prediction and truth are both empty",
        "dataset": "refshapes",
        "split_by": "l2l",
        "labeled_frac": 0.05,
        "seed": 0,
        "chosen_on": "val",
        "missing_splits": [],
        "rows": rows,
        "hidden_truth": {"l2l": [quality(0.015 * r - 0.03, 3800) | wrong_before(r) for r in range(ROUNDS)]},
        "gate_open": {"l2l": [{"round": 0, "version": 0, "unlabeled": 0.61, "labeled": 0.563, "gap": 0.047}]},
        "note": "Made-up figures: a test page.",
    }


def selection() -> dict[str, Any]:
    return {"method": "l2l", "version": 3, "summary": quality(0)}


def panel(number: int, iou: float | None, labeled: bool = True) -> ExamplePanel:
    """A drawn scene; the right object is the circle, and the prediction drifts off it as the IoU falls."""
    size, grid = 128, 32
    scene = Image.new("RGB", (size, size), (214, 208, 196))
    draw = ImageDraw.Draw(scene)
    draw.rectangle((70, 20 + number, 118, 62 + number), fill=(66, 120, 190))
    draw.ellipse((18, 60, 66, 108), fill=(200, 62, 58), outline=(90, 20, 20))
    draw.polygon([(80, 112), (118, 112), (99, 76)], fill=(82, 160, 92))
    rows, columns = np.mgrid[0:size, 0:size]
    truth = (rows - 84) ** 2 + (columns - 42) ** 2 < 24**2
    drift = 0 if iou is None else int((1 - iou) * 50)
    final = (rows - 84 + drift) ** 2 + (columns - 42 - drift) ** 2 < 24**2
    cells = np.mgrid[0:grid, 0:grid] * 4 + 2
    distance = np.sqrt((cells[0] - 84 + drift) ** 2 + (cells[1] - 42 - drift) ** 2)
    teacher = 1 / (1 + np.exp((distance - 24) / 4))
    box = (0.1, 0.42, 0.56, 0.88)
    proposal = (np.abs(cells[1] / size - 0.33) < 0.23) & (np.abs(cells[0] / size - 0.65) < 0.23)
    source, label = (Candidate.PRIOR, proposal) if number == 1 else (Candidate.GUIDED, teacher > 0.5)
    codes = accepted_codes(source, label, np.abs(teacher - 0.5) > 0.3)
    expressions = ["the red circle on the left", "bottom circle <b>not bold</b> & left", "circle below the blue one"]
    return ExamplePanel(
        sent_id=100 + number,
        expression=expressions[number % 3],
        split="val" if labeled else "unlabeled",
        iou=iou,
        image=np.asarray(scene),
        prior_box_xyxy_frac=None if number == 2 else box,
        prior_score=0.83,
        proposal=np.full((grid, grid), 0.5) if number == 2 else proposal * 0.9 + 0.05,
        teacher=teacher,
        accepted=codes,
        final=final.astype(np.float32),
        truth=truth.astype(np.float32) if labeled else None,
        file=f"scene-{number}.jpg",
        confidence=0.4 + 0.1 * number,
        used=None if labeled else number % 2 == 0,
        why_unused="" if labeled or number % 2 == 0 else "the selector turned it down",
    )


@pytest.fixture
def run_dir(built_run: Path, tmp_path: Path) -> Path:
    """A copy to write into."""
    return Path(shutil.copytree(built_run, tmp_path / "refshapes-l2l-s0"))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawing out; it is tested elsewhere."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, buffer, **_: buffer.write("<svg/>"))


@pytest.fixture(scope="session")
def built_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fake run; tests only read it."""
    folder = tmp_path_factory.mktemp("runs") / "refshapes-l2l-s0"
    folder.mkdir()
    config = {"name": None, "data": {"dataset": "refshapes"}, "selector": {"name": "l2l"}, "loop": {"seed": 0}}
    env = {"git": "abc1234", "command": "l2l run --preset smoke", "versions": {"torch": "2.13", "ray": "2.60"}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "env.json").write_text(json.dumps(env))
    (folder / "results.json").write_text(json.dumps(results()))
    (folder / "selection.json").write_text(json.dumps(selection()))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(event) + "\n" for event in event_log()))
    skip = {"kind": "truncated_image", "sent_id": 7, "path": "images/12.jpg", "reason": "4 bytes not processed"}
    (folder / "skips.jsonl").write_text((json.dumps(skip) + "\n") * 3)
    write_examples(
        folder, [panel(0, 0.93), panel(1, 0.21), panel(2, 0.66), *(panel(n, None, labeled=False) for n in (5, 4, 3))]
    )
    return folder
