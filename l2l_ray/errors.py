"""The exception tree. Every message says what failed, the value got, the value expected and the remedy.

    L2LError
    ├── ConfigError        a setting is wrong, or two settings contradict each other
    ├── DataError          a file, record or image is wrong (carries sent_id and path where known)
    ├── PriorParseError    an MLLM reply that holds no usable grounding; callers count it as "no prior"
    ├── CheckpointError    a checkpoint or version cannot be written, read or matched
    ├── LedgerError        a pseudo-label shard cannot be committed or read back
    └── ClusterError       the Ray cluster lacks what the run asks for, or an actor did not come up

Source: ours; the tree-as-docstring follows httpx.
"""

FREE_SPACE = "free some space and start again with --resume"  # the remedy wherever a run cannot write


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


class ClusterError(L2LError, RuntimeError):
    """The Ray cluster cannot run what the config asks for."""
