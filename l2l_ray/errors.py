"""The exception tree. Every message says what failed, the value got, the value expected and the remedy.

    L2LError
    ├── ConfigError        a setting is wrong, or two settings contradict each other
    ├── DataError          a file, record or image is wrong (carries sent_id and path where known)
    ├── PriorParseError    an MLLM reply that holds no usable grounding; callers count it as "no prior"
    ├── CheckpointError    a checkpoint or version cannot be written, read or matched
    ├── LedgerError        a pseudo-label shard cannot be committed or read back
    ├── OutageError        a device or a server that worked does not any more; the settings are right
    └── ClusterError       the Ray cluster lacks what the run asks for, or an actor did not come up

Source: ours; the tree-as-docstring follows httpx.
"""

import errno
import re

HEALS = "start again with --resume, which finds what is damaged and makes it again"  # wherever a run cannot read


class L2LError(Exception):
    """Base of every error raised on purpose by this package."""


class ConfigError(L2LError, ValueError):
    """A setting has a wrong value, or two settings contradict each other."""


class DataError(L2LError, ValueError):
    """A data file, record or image is unusable."""


class PriorParseError(L2LError, ValueError):
    """An MLLM reply holds no usable box, point or polygon."""


class CheckpointError(L2LError, RuntimeError):
    """A checkpoint cannot be written, read, or does not fit the model."""


class LedgerError(L2LError, RuntimeError):
    """A pseudo-label shard cannot be committed or read back."""


class OutageError(L2LError, RuntimeError):
    """A device or a server that worked does not any more."""


class ClusterError(L2LError, RuntimeError):
    """The Ray cluster cannot run what the config asks for."""


_FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))


def write_remedy(error: BaseException) -> str:
    """Return what a person can do about a file or folder that cannot be written, by what the system says.

    Libraries' own errors carry no number of the system; then it may be either.

    Example: `write_remedy(OSError(errno.ENOSPC, "no space"))` is "free some space"
    """
    number = getattr(error, "errno", None)
    if number is None:
        return "free some space or check its permissions"
    return "free some space" if number in _FULL else "check its place and permissions"


def run_remedy(error: BaseException) -> str:
    """Return the remedy wherever a run cannot write."""
    return f"{write_remedy(error)} and start again with --resume"


def one_line(error: BaseException) -> str:
    """Return an error as one line for a person: messages of libraries come in several, the system's with a number.

    An `OSError` that nobody put into words names its file and what can be done.
    """
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        what = f"{error.filename} cannot be read or written: " if error.filename else ""
        text = f"{what}{error.strerror or text}; check the path, its permissions and the free space"
    return re.sub(r"\[Errno \d+\] ", "", text)
