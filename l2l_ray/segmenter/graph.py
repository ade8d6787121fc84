"""The segmenter as a graph that runs without this package: `torch.export`'s, and ONNX made from it.

Inputs, for any number B of samples, L tokens of the text and P of the MLLM's phrase:

    images [B, 3, S, S] in [0, 1]      input_ids, attention_mask [B, L]      proposal [B, G, G] in [0, 1]
    prior_score [B]                    has_prior [B] bool                    phrase_ids, phrase_mask [B, P]

The output is the mask's logits [B, G, G]. Tokens come from the tokenizer of the text encoder, padded
on the right and cut at `segmenter.max_text_tokens`; proposals from the prior.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from l2l_ray.errors import CheckpointError, ConfigError, write_remedy
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.segmenter.text import TextTokens

PROGRAM, ONNX = "segmenter.pt2", "segmenter.onnx"
INPUTS = (
    "images", "input_ids", "attention_mask", "proposal", "prior_score", "has_prior", "phrase_ids", "phrase_mask",
)  # fmt: skip


class SegmenterGraph(nn.Module):
    """A segmenter whose inputs and output are tensors alone.

    Args:
        segmenter: In evaluation mode.
    """

    def __init__(self, segmenter: Segmenter) -> None:
        super().__init__()
        self.segmenter = segmenter

    def forward(
        self,
        images: Float[Tensor, "B 3 S S"],
        input_ids: Int[Tensor, "B L"],
        attention_mask: Int[Tensor, "B L"],
        proposal: Float[Tensor, "B G G"],
        prior_score: Float[Tensor, " B"],
        has_prior: Bool[Tensor, " B"],
        phrase_ids: Int[Tensor, "B P"],
        phrase_mask: Int[Tensor, "B P"],
    ) -> Float[Tensor, "B G G"]:
        """Return mask logits."""
        encoded = self.segmenter.encode(images, TextTokens(input_ids, attention_mask))
        phrases = TextTokens(phrase_ids, phrase_mask)
        logits: Tensor = self.segmenter.decode(encoded, proposal, prior_score, has_prior, phrases).mask_logits
        return logits


def example_inputs(segmenter: Segmenter, texts: list[str], phrases: list[str]) -> tuple[Tensor, ...]:
    """Return inputs of the graph for some texts, over gray images and proposals that say nothing."""
    tokens, phrase = segmenter.tokenize(texts), segmenter.tokenize(phrases)
    num, side, grid = len(texts), segmenter.image_size, segmenter.grid
    return (
        torch.full((num, 3, side, side), 0.5), tokens.input_ids, tokens.attention_mask,
        torch.full((num, grid, grid), 0.5), torch.full((num,), 0.5), torch.ones(num, dtype=torch.bool),
        phrase.input_ids, phrase.attention_mask,
    )  # fmt: skip


def _exported(segmenter: Segmenter) -> torch.export.ExportedProgram:
    """Return the graph of a segmenter, which lies on the CPU and learns no more."""
    graph = SegmenterGraph(segmenter.eval().requires_grad_(False))
    some = torch.export.Dim.DYNAMIC
    words = {0: some, 1: some}
    shapes: tuple[Any, ...] = ({0: some}, words, words, {0: some}, {0: some}, {0: some}, words, words)
    inputs = example_inputs(segmenter, ["the left cup", "a cup"], ["red cup", "cup"])
    # With gradients on, as each image has a pass of its own then; without, equal ones share it, which is no graph.
    with torch.enable_grad():
        return torch.export.export(graph, inputs, dynamic_shapes=shapes)


def save_graph(segmenter: Segmenter, folder: Path, as_onnx: bool) -> Path:
    """Write a segmenter's graph into a folder and return the file.

    Args:
        segmenter: Its weights become part of the file.
        folder: Made where it is missing.
        as_onnx: ONNX instead of `torch.export`'s own format.
    Raises:
        ConfigError: ONNX is asked for and its packages are not installed.
        CheckpointError: The file cannot be written.
    """
    if as_onnx:
        require_onnx()
    program = _exported(copy.deepcopy(segmenter).cpu())
    path = folder / (ONNX if as_onnx else PROGRAM)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            # Of torch's own code; and of weights that share memory, which are on the CPU here, where that is no matter.
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec", FutureWarning)
            warnings.filterwarnings("ignore", "No complete tensor found in the group", UserWarning)
            with TemporaryDirectory(dir=folder, ignore_cleanup_errors=True) as place:
                if as_onnx:
                    made = torch.onnx.export(program, dynamo=True, input_names=list(INPUTS), verbose=False)
                    assert made is not None, "dynamo=True gives a program"
                    made.save(Path(place) / path.name)
                else:
                    torch.export.save(program, Path(place) / path.name)
                for file in sorted(Path(place).iterdir(), reverse=True):  # the graph after the weights it points to
                    file.replace(folder / file.name)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error}; {write_remedy(error)}, or give another folder") from error
    return path


def require_onnx() -> None:
    """Check that ONNX can be written.

    Raises:
        ConfigError: Its packages are not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ImportError:
        raise ConfigError(
            "ONNX needs packages that are not installed; pip install 'l2l-ray[onnx]', or leave --onnx out"
        ) from None
