"""Where a checkpoint named in the config is read from: a folder, the download cache or the model hub.

One place for the MLLM, SAM, the backbone and the text encoder. The hub's client tries an address that does not answer
for half a minute and writes a line each time, so the hub is asked once, shortly, before anything is loaded: without it
the cache alone is read, and a name that is not there is one message at once. Downloads show their progress as always.
Code that lies beside the weights is never run, nor is anybody asked whether it should be.
"""

from __future__ import annotations

import json
import logging
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from l2l_ray.errors import ConfigError
from l2l_ray.files import temporary_path

logger = logging.getLogger(__name__)

HUB_TIMEOUT_S = 5.0
PixelStatistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean and standard deviation of red, green and blue
_MOST, _LEAST_STD = 1e6, 1e-6  # what normalised pixels stay finite with; NaN is in no range
_FAILURES = (
    *(OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError),
    SafetensorError,  # weights that are cut off
)
_CHECK_FILES = "check that its files are whole and fit the installed transformers"
_OWN_CODE = (
    "it brings code of its own, which is never run; take the version made for transformers (InternVL: the id ending in "
    "-hf)"
)


@contextmanager
def checkpoint(setting: str, name: str, expected: str) -> Iterator[dict[str, Any]]:
    """Explain what goes wrong while a checkpoint is loaded; yield the options of every `from_pretrained` inside.

    Example: `with checkpoint("prior.model", name, "a vision-language model") as options: ...`

    Args:
        setting: The config field that names it.
        name: A folder or hub id.
        expected: What kind of checkpoint it should be.
    Raises:
        ConfigError: It is neither a folder nor a hub id, the hub does not answer and the cache lacks it, or loading
            fails; one line each.
    """
    try:
        yield _options(name)
    except ConfigError:
        raise
    except _Unavailable as error:
        why, remedy = error.args
        raise ConfigError(_message(setting, name, why, expected, remedy)) from None
    except _FAILURES as error:
        raise ConfigError(_message(setting, name, in_one_line(error), expected, _CHECK_FILES)) from error


def in_one_line(error: Exception) -> str:
    """Return what a library says of a checkpoint that it cannot load."""
    said = str(error)
    if "trust_remote_code" in said:
        return _OWN_CODE
    return next(iter(said.strip().splitlines()), type(error).__name__)[:300]


def load_whole(kind: Any, name: str, may_lack: str | None = None, **options: Any) -> Any:
    """Load a model; transformers alone would go on with random weights where a file lacks some.

    Args:
        kind: Class or Auto class of the model.
        name: A folder or hub id.
        may_lack: Pattern of the names of weights that nothing depends on, or that start as they should.
        options: Of `checkpoint`, and what else `from_pretrained` takes.
    Raises:
        ValueError: Weights are missing; `checkpoint` explains it. Some too many do not matter: heads of other tasks.
    """
    model, found = kind.from_pretrained(name, output_loading_info=True, **options)
    missing = sorted(found["missing_keys"])
    lacking = [weight for weight in missing if may_lack is None or not re.search(may_lack, weight)]
    if lacking:
        raise ValueError(f"its file lacks {len(lacking)} weights of a {type(model).__name__}, as {lacking[0]}")
    if missing:
        logger.info("%s lacks %d weights, which begin anew (first: %s)", name, len(missing), missing[0])
    return model


def pixel_statistics(name: str, options: dict[str, Any]) -> PixelStatistics | None:
    """Return mean and deviation from a checkpoint's image-processor config; None where it has none.

    Args:
        name: A folder or hub id.
        options: Of `checkpoint`, which explains these errors:
    Raises:
        OSError: A file that is there cannot be had.
        ValueError: It is no image-processor config, or its mean and deviation are none.
    """
    from transformers.utils import IMAGE_PROCESSOR_NAME, PROCESSOR_NAME

    for file in (PROCESSOR_NAME, IMAGE_PROCESSOR_NAME):  # the first may hold the content of the second
        if (path := _file_of(name, file, bool(options.get("local_files_only")))) is None:
            continue
        try:
            content = json.loads(path.read_bytes())
            found = content if file == IMAGE_PROCESSOR_NAME else content.get("image_processor") or {}
            given = found.get("image_mean"), found.get("image_std")
        except (ValueError, AttributeError):
            raise ValueError(f"its {file} is no JSON object, or not whole") from None
        if given != (None, None):
            return _three_each(*given, file)
    return None


def _three_each(mean: Any, std: Any, file: str) -> PixelStatistics:
    for values, least in ((mean, -_MOST), (std, _LEAST_STD)):
        is_numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
        if not is_numbers or len(values) != 3 or not all(least <= value <= _MOST for value in values):
            raise ValueError(
                f"its {file} has image_mean {mean} and image_std {std}, not 3 numbers each, those of image_std positive"
            )
    return tuple(map(float, mean)), tuple(map(float, std))


def _file_of(name: str, file: str, is_offline: bool) -> Path | None:
    """Return a file of a checkpoint, None where it has none; transformers takes a hub that does not answer for that.

    Where the hub does not give it, the download cache tells, and without the hub that alone.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    if Path(name).is_dir():
        return path if (path := Path(name) / file).exists() else None
    try:
        return Path(hf_hub_download(name, file, local_files_only=is_offline))
    except (OSError, EntryNotFoundError, HfHubHTTPError) as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return None
        cached = try_to_load_from_cache(name, file)
        if cached is None and not is_offline:  # nothing is known of it
            raise
        return Path(cached) if isinstance(cached, str) else None


def give_usual_mode(path: Path) -> None:
    """Give a file of weights the mode of any new file there: safetensors leaves it to its owner alone.

    Raises:
        OSError: It cannot be had.
    """
    other = temporary_path(path)
    other.touch()  # the umask cannot be asked without being changed, for all threads
    try:
        usual, found = (stat.S_IMODE(each.stat().st_mode) for each in (other, path))
    finally:
        other.unlink()
    if found != usual:
        path.chmod(usual)


class _Unavailable(Exception):
    """Why a checkpoint cannot be had, and the remedy."""


def _message(setting: str, name: str, why: str, expected: str, remedy: str) -> str:
    return (
        f"{setting} {name!r} cannot be loaded: {why.rstrip('.')}; expected {expected}, as a folder with config.json "
        f"and weights or as a hub id (owner/name); {remedy}"
    )


def _options(name: str) -> dict[str, Any]:
    from huggingface_hub import constants, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    options: dict[str, Any] = {"trust_remote_code": False}  # without it, transformers asks whoever sits there
    if name and Path(name).is_dir():
        return options
    try:
        is_cached = isinstance(try_to_load_from_cache(name, "config.json"), str)
    except HFValidationError:
        raise _Unavailable("there is no such folder, and no hub id looks like it", "check the spelling") from None
    if _hub_answers():
        return options
    if not is_cached:
        hub = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else f"the hub {constants.ENDPOINT} does not answer"
        raise _Unavailable(
            f"there is no such folder, the download cache does not hold it, and {hub}",
            "check the spelling and the network, or copy the model here and give its folder",
        )
    logger.info("the model hub does not answer; %s is read from the download cache", name)
    return {**options, "local_files_only": True}


@cache
def _hub_answers() -> bool:
    """Whether the hub can be reached, asked once a process."""
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # of the network, of a proxy, of certificates
        logger.debug("the model hub does not answer: %s", error)
        return False
    return True
