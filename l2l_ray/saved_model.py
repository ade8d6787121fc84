"""A trained segmenter as a folder of its own, to keep, to give away or to put on the model hub.

    model.safetensors   every weight of the segmenter, encoders included
    config.json         how it is built, how its prior is asked, what it was trained on and what it reached
    backbone/, text/    the encoders' configs and tokenizer, where they are not the ones this package ships
    README.md           the model card

Nothing in it is pickled. The frozen MLLM is not part of it: it is named, and loaded from where it is published, or from
the folder it was in. `Predictor.from_pretrained` opens such a folder.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from l2l_ray import __version__
from l2l_ray.calibration import Calibration, Curve
from l2l_ray.checkpoints import checkpoint
from l2l_ray.config import EMBEDDED, DataConfig, LoopConfig, PriorConfig, RunConfig, SegmenterConfig
from l2l_ray.errors import CheckpointError, ConfigError, write_remedy
from l2l_ray.files import replacing_folder
from l2l_ray.loop.state.checkpoint import save_weights
from l2l_ray.loop.state.run_folder import RunFolder
from l2l_ray.segmenter.graph import ONNX, PROGRAM
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.segmenter.text import load_tokenizer

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
FORMAT = 1
_LIBRARY = "l2l-ray"
# Of the prior's settings: where it ran. A model from elsewhere must not say to which address photos are sent.
_OF_THE_MACHINE = {"device", "url", "timeout_s"}
_FILES = (WEIGHTS, CONFIG, CARD, "backbone/*", "text/*", PROGRAM, f"{ONNX}*")


@dataclass(frozen=True)
class Facts:
    """What a saved model is, beside its weights.

    Example: `Facts.of_run(run, "l2l", 3, scores)`
    """

    method: str
    version: int
    known_scores: tuple[float, ...]  # of the labeled set's priors; see `loop.inference.inputs.ExampleSet`
    trained_on: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # split -> figure -> value
    curve: Curve | None = None  # what the model's estimates of its masks mean (`calibration.py`)

    @classmethod
    def of_run(cls, run: RunFolder, method: str, version: int, known_scores: list[float]) -> Facts:
        """Return the facts of a version of a run; figures are those of its own table, where that is of this version."""
        data = run.config.data
        trained_on = {
            "dataset": data.dataset, "split_by": data.split_by, "drawn": data.root == EMBEDDED,
            "split_seed": data.split_seed, "seed": run.config.loop.seed, "rounds": run.config.loop.rounds,
        }  # fmt: skip
        trained_on |= _counts(run)
        calibration = Calibration.load(run.version_dir(method, version))
        curve = None if calibration is None else calibration.predictions
        return cls(method, version, tuple(known_scores), trained_on, _figures(run, method, version), curve)


def save_model(folder: Path, segmenter: Segmenter, config: RunConfig, facts: Facts) -> None:
    """Write a model's folder: a new one, or in the place of an earlier model, of which no file stays.

    What else lies beside an earlier model is kept. When something fails, the earlier model is as it was.

    Raises:
        CheckpointError: It cannot be written.
        ConfigError: Something else lies there, or the files of an encoder cannot be read.
    """
    try:
        _beside_model(folder)  # refused before anything is written
        with replacing_folder(folder.resolve()) as temporary:
            _write(temporary, segmenter, config, facts)
            for path in _beside_model(folder):
                if path.is_dir() and not path.is_symlink():
                    shutil.copytree(path, temporary / path.name, symlinks=True)
                else:
                    shutil.copy2(path, temporary / path.name, follow_symlinks=False)
    except (OSError, shutil.Error) as error:
        raise CheckpointError(
            f"cannot write the model to {folder}: {error}; {write_remedy(error)}, or give another folder"
        ) from error


def _beside_model(folder: Path) -> list[Path]:
    """Return what lies beside an earlier model and is no part of it; nothing where the folder is new or empty.

    Raises:
        ConfigError: No model lies there, but something else.
    """
    if (folder / "config.yaml").exists():
        raise ConfigError(f"{folder} is a run's folder; give another one for the model")
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return []
    try:
        if json.loads((folder / CONFIG).read_text())["library_name"] == _LIBRARY:
            of_model = [pattern.partition("/")[0] for pattern in _FILES]
            return [path for path in folder.iterdir() if not any(fnmatch(path.name, each) for each in of_model)]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise ConfigError(f"{folder} is there and holds no model of `l2l save` (no {CONFIG} of one); give another folder")


def _write(folder: Path, segmenter: Segmenter, config: RunConfig, facts: Facts) -> None:
    section = _with_encoders(segmenter, config.segmenter, folder)
    content = {
        "library_name": _LIBRARY,
        "library_version": __version__,
        "format": FORMAT,
        "segmenter": section.model_dump(),
        "prior": config.prior.model_dump(exclude=_OF_THE_MACHINE),
        "max_words": config.data.max_words,
        "autocast": config.loop.autocast,
        **asdict(facts),
    }
    save_weights(segmenter, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(content, indent=1) + "\n")
    (folder / CARD).write_text(model_card(config, facts))


def open_model(folder: Path) -> tuple[RunConfig, Facts]:
    """Read what `save_model` wrote, but for the weights.

    Raises:
        CheckpointError: There is no model, or it is of a later version of this package.
    """
    path = folder / CONFIG
    try:
        content = json.loads(path.read_text())
        if content.get("library_name") != _LIBRARY or content["format"] != FORMAT:
            raise ValueError(
                f"it is a model of {content.get('library_name')} {content.get('library_version', '')}, format "
                f"{content.get('format')}"
            )
        facts = Facts(
            content["method"], content["version"], tuple(content["known_scores"]), content["trained_on"],
            content["figures"], Curve.of(content.get("curve")),
        )  # fmt: skip
        section = SegmenterConfig(**content["segmenter"])
        places = {name: str(folder / name) for name in ("backbone", "text") if getattr(section, name) != EMBEDDED}
        is_drawn = bool(facts.trained_on.get("drawn"))
        data = DataConfig(max_words=content["max_words"], **({} if is_drawn else {"root": str(folder)}))
        config = RunConfig(
            data=data,
            segmenter=section.model_copy(update=places),
            prior=PriorConfig(**{k: value for k, value in content["prior"].items() if k not in _OF_THE_MACHINE}),
            loop=LoopConfig(autocast=content["autocast"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"{folder} holds no saved model that this version ({_LIBRARY} {__version__}) can open: {error}; give a "
            "folder that `l2l save` or `Predictor.save_pretrained` wrote, or a hub id (owner/name) of one"
        ) from None
    return config, facts


def fetch(source: str, revision: str | None = None) -> Path:
    """Return the folder of a model: the one that is named, or a copy of the hub's.

    Raises:
        CheckpointError: It is neither a folder nor a hub id that can be had.
    """
    if Path(source).is_dir():
        return Path(source)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(source, revision=revision))
    except _hub_errors() as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{source!r} is no folder, and the hub does not give it: {why}; check the spelling, the network and, for a "
            "private one, `hf auth login`"
        ) from None


def push(folder: Path, repo_id: str, private: bool | None = None) -> str:
    """Put a model's folder on the hub; return where it is.

    Raises:
        CheckpointError: The hub does not take it.
    """
    from huggingface_hub import HfApi

    api = HfApi(library_name=_LIBRARY, library_version=__version__)
    try:
        repo = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        return str(
            api.upload_folder(
                repo_id=repo,
                folder_path=folder,
                commit_message=f"{_LIBRARY} {__version__}",
                allow_patterns=list(_FILES),
                delete_patterns=list(_FILES),  # of an earlier model, what this one does not have
            )
        )
    except _hub_errors() as error:
        why = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"the hub does not take {repo_id!r}: {why}; check the name, the network and `hf auth login`; the model is "
            f"whole in {folder}"
        ) from None


def _hub_errors() -> tuple[type[Exception], ...]:
    """Return what the hub's client raises: its own errors, and those of its HTTP library, which go through as they are.

    Which library that is depends on the client's version, but its own errors are of its kind, too.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    return (OSError, HFValidationError, HfHubHTTPError.__bases__[0])


def model_card(config: RunConfig, facts: Facts) -> str:
    """Return the model card, Markdown with the hub's header: what it is, what it learned from, what it reached."""
    from huggingface_hub import ModelCardData

    header = ModelCardData(
        library_name=_LIBRARY, pipeline_tag="image-segmentation", tags=["referring-expression-segmentation", "l2l-ray"]
    )
    trained = facts.trained_on
    data = f"{trained.get('dataset')} ({trained.get('split_by')})"
    drawn = (
        "\nIt learned from drawn shapes: on other pictures its masks and confidences mean nothing.\n"
        if trained.get("drawn")
        else ""
    )
    rows = "".join(
        f"| {split} | {figures['mean_iou']:.1%} | {figures['overall_iou']:.1%} |\n"
        for split, figures in facts.figures.items()
    )
    table = (
        f"| split | mIoU | oIoU |\n|---|---|---|\n{rows}\nPer sentence, at native size; one training run, so these are "
        "figures and no comparison.\n"
        if rows
        else "They were not measured for this version.\n"
    )
    counts = f"{trained.get('num_labeled', '?')} labeled texts and {trained.get('num_unlabeled', '?')} unlabeled ones"
    return f"""---
{header.to_yaml()}
---

# Referring expression segmentation, trained with few masks

A picture and a text go in, the mask of what the text refers to comes out. Method `{facts.method}`, version
{facts.version}, {_LIBRARY} {__version__}.
{drawn}
```python
from pathlib import Path
from l2l_ray.predictor import Predictor

prediction = Predictor.from_pretrained("THIS FOLDER OR HUB ID").predict(Path("photo.jpg"), "the left cup")
```

## What it is made of

- Segmenter: `{_public(config.segmenter.backbone)}` for pictures of {config.segmenter.image_size} px, and
  `{_public(config.segmenter.text)}` for texts.
- Prior: a frozen language model, `{_public(config.prior.model)}`, asked for a box; it is not part of these files.

## What it learned from

{data}, {counts}; seed {trained.get("seed")}, split seed {trained.get("split_seed")}, {trained.get("rounds")} rounds.

## What it reached

{table}"""


def _public(name: str) -> str:
    """Return a model's name without the folders of the machine it lies on."""
    return Path(name).name if Path(name).is_absolute() or name.startswith((".", "~")) else name


def _with_encoders(segmenter: Segmenter, section: SegmenterConfig, folder: Path) -> SegmenterConfig:
    """Write what builds the encoders, weights aside; return the section that finds them in the folder."""
    from transformers import AutoConfig

    places: dict[str, str] = {}
    for part in ("backbone", "text"):
        source = getattr(section, part)
        if source == EMBEDDED:
            continue
        place = folder / part
        place.mkdir()
        with checkpoint(f"segmenter.{part}", source, "an encoder") as options:
            AutoConfig.from_pretrained(source, **options).save_pretrained(place)
            if part == "text":
                load_tokenizer(source, options).save_pretrained(place)
            else:
                pixels = {"image_mean": segmenter.backbone.mean, "image_std": segmenter.backbone.std}
                said = {name: values.flatten().tolist() for name, values in pixels.items()}
                (place / "preprocessor_config.json").write_text(json.dumps(said))
        places[part] = part
    return section.model_copy(update=places)


def _counts(run: RunFolder) -> dict[str, int]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return {f"num_{name}": pq.read_metadata(run.examples_path(name)).num_rows for name in ("labeled", "unlabeled")}
    except (OSError, pa.ArrowException):
        return {}


def _figures(run: RunFolder, method: str, version: int) -> dict[str, dict[str, float]]:
    """Return the figures of this version in the run's table, by split."""
    try:
        rows = json.loads((run.path / "results.json").read_text())["rows"]
        row = next(row for row in rows if (row["method"], row["version"]) == (method, version))
        return {
            split: {name: float(figures[name]) for name in ("mean_iou", "overall_iou")}
            for split, figures in row["splits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, StopIteration):
        return {}
