"""The run's figures as TensorBoard scalars: one folder per method below `tensorboard/`, one step per version.

The folder is made anew from metrics.jsonl each time, so it never holds a round twice.
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from l2l_ray.files import replacing_folder
from l2l_ray.report.record import is_number, read_run, writing

logger = logging.getLogger(__name__)


def write_tensorboard(run_dir: Path) -> Path | None:
    """Write `<run_dir>/tensorboard/<method>/` with every number of metrics.jsonl.

    Returns:
        The folder, or None (with a warning) where the tensorboard package is not installed.
    Raises:
        DataError: There is no such run folder, or it cannot be written.
    """
    record = read_run(run_dir)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        logger.warning("no TensorBoard files in %s: %s; install the tensorboard package to have them", run_dir, error)
        return None
    folder = record.run_dir / "tensorboard"
    with writing(record.run_dir):
        if folder.is_file():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder))
    with writing(record.run_dir), replacing_folder(folder) as temporary:
        for method in dict.fromkeys(str(point["method"]) for point in record.points):
            with SummaryWriter(str(temporary / method)) as writer:
                for point in record.points_of(method):
                    for column, value in point.items():
                        if column not in ("version", "round") and is_number(value):
                            name = column.replace(".", "/", 1)
                            writer.add_scalar(name, value, point["version"])
    return folder
