"""The segmenter's graph gives the segmenter's logits, for batches and texts of other lengths than it was made with."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from l2l_ray.config import SegmenterConfig
from l2l_ray.errors import ConfigError
from l2l_ray.segmenter.graph import INPUTS, ONNX, PROGRAM, SegmenterGraph, example_inputs, save_graph
from l2l_ray.segmenter.model import Segmenter

TOLERANCE = 1e-4  # of logits around 1


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(SegmenterConfig(image_size=32)).eval()


def other_inputs(segmenter: Segmenter) -> tuple[torch.Tensor, ...]:
    inputs = example_inputs(
        segmenter, ["the small red circle on the left", "it", "a star"], ["red circle", "x", "star"]
    )
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(inputs[0].shape, generator=generator), *inputs[1:3],
            torch.rand(inputs[3].shape, generator=generator), *inputs[4:])  # fmt: skip


@pytest.mark.slow
def test_the_exported_program_agrees(segmenter: Segmenter, tmp_path: Path) -> None:
    path = save_graph(segmenter, tmp_path, as_onnx=False)
    assert path == tmp_path / PROGRAM and list(tmp_path.iterdir()) == [path]
    inputs = other_inputs(segmenter)
    with torch.no_grad():
        found = torch.export.load(path).module()(*inputs)
        expected = SegmenterGraph(segmenter)(*inputs)
    assert (found - expected).abs().max() < TOLERANCE and expected.std() > 0.01


@pytest.mark.slow
def test_onnx_agrees(segmenter: Segmenter, tmp_path: Path) -> None:
    import onnxruntime

    path = save_graph(segmenter, tmp_path, as_onnx=True)
    assert path == tmp_path / ONNX
    inputs = other_inputs(segmenter)
    session = onnxruntime.InferenceSession(path)
    assert tuple(one.name for one in session.get_inputs()) == INPUTS
    (found,) = session.run(None, {name: value.numpy() for name, value in zip(INPUTS, inputs, strict=True)})
    with torch.no_grad():
        expected = SegmenterGraph(segmenter)(*inputs)
    assert (torch.from_numpy(found) - expected).abs().max() < TOLERANCE and expected.std() > 0.01


def test_onnx_without_its_packages_names_them(
    segmenter: Segmenter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"pip install 'l2l-ray\[onnx\]'"):
        save_graph(segmenter, tmp_path, as_onnx=True)
