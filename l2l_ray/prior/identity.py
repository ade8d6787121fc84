"""Who answers, and who draws masks: the hash of everything an answer depends on, without loading weights.

A changed weight file, template, setting or way of reading can then never meet a stored answer.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from l2l_ray.config import EMBEDDED, PriorConfig, idle_in_prior
from l2l_ray.device import named_device, pick_dtype
from l2l_ray.prior.prompt import PromptFormat, prompt_for
from l2l_ray.prior.reply import MllmIdentity, reading_version

EMBEDDED_FOLDER = Path(__file__).parents[1] / "embedded" / "mllm"
ANSWERING_VERSION = 4  # of mllm.py: raise it when the same question gets other answers
DRAWING_VERSION = 1  # of sam.py: raise it when the same prior gets other masks
EXPECTED = "a vision-language model, a detector that takes text, or 'embedded'"
_AT_REST_NS = 2 * 10**9  # clocks of file systems are coarse: a file may change twice within one tick
_HASHED_SUFFIXES = (".safetensors", ".bin", ".json", ".jinja", ".txt", ".model")
_SETTINGS = {"image_size", "max_new_tokens", "num_samples", "temperature", "dtype", "min_image_tokens"}


def source_of(config: PriorConfig) -> str:
    """Return the folder or hub id of the config's model."""
    return str(EMBEDDED_FOLDER) if config.model == EMBEDDED else config.model


def identity_of(config: PriorConfig, source: str, model_config: Any) -> MllmIdentity:
    """Return who a checkpoint is and how it is asked.

    A hub id is pinned by the commit it was resolved to; the files of a folder are read once a process, as long as they
    do not change. A setting without effect on this model counts as its default, so that changing it asks nothing again.
    How replies are read counts too, since it is the reading that is stored.

    Args:
        config: The prior section.
        source: From `source_of`.
        model_config: The checkpoint's config, from transformers.
    Raises:
        ConfigError: The checkpoint's format is unknown, or cannot give what is wanted.
    """
    prompt = prompt_for(model_config.model_type, config.prompt, config.proposal, config.coordinates)
    dtype = pick_dtype(config.dtype, named_device(config.device))
    return MllmIdentity(_fingerprint(source, model_config, config.model_copy(update={"dtype": dtype}), prompt), prompt)


def sam_fingerprint(config: PriorConfig, source: str, model_config: Any) -> str:
    """Return the hash of everything that a mask of SAM depends on, besides picture, boxes and points.

    Args:
        config: The prior section.
        source: Folder or hub id of SAM.
        model_config: Its config, from transformers.
    """
    dtype = pick_dtype(config.dtype, named_device(config.device))
    digest = hashlib.sha256(_of_checkpoint(source, model_config))
    digest.update(json.dumps([dtype, DRAWING_VERSION]).encode())
    return digest.hexdigest()


def _fingerprint(source: str, model_config: Any, config: PriorConfig, prompt: PromptFormat) -> str:
    digest = hashlib.sha256(_of_checkpoint(source, model_config))
    idle = {name.removeprefix("prior.") for group in idle_in_prior(config) for name in group.fields}
    asked = config.model_copy(update={name: PriorConfig.model_fields[name].default for name in idle})
    settings = asked.model_dump(include=_SETTINGS)
    if config.num_samples > 1 or config.model != EMBEDDED:  # a single answer of the embedded model never changed
        settings["answering_version"] = ANSWERING_VERSION
    read = reading_version(prompt, config.num_samples)
    digest.update(json.dumps([asdict(prompt), settings, read], sort_keys=True).encode())
    return digest.hexdigest()


def _of_checkpoint(source: str, model_config: Any) -> bytes:
    folder = Path(source)
    if not folder.is_dir():
        return f"{source}@{getattr(model_config, '_commit_hash', None)}".encode()
    found = []
    for path in sorted(p for p in folder.iterdir() if p.suffix in _HASHED_SUFFIXES):
        found.append(f"{path.name}:{_content_hash(path)}")
    return "".join(found).encode()


def _content_hash(path: Path) -> str:
    """Return the hash of a file's content; it is read anew only where it may have changed."""
    status = path.stat()
    stamp = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
    is_at_rest = time.time_ns() - max(stamp[-2:]) > _AT_REST_NS
    return (_hashed_once if is_at_rest else _hashed_once.__wrapped__)(path, stamp)


@lru_cache(maxsize=1024)
def _hashed_once(path: Path, stamp: tuple[int, ...]) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
