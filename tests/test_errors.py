"""What a person is told to do where something cannot be written."""

from __future__ import annotations

import errno

import pytest

from l2l_ray.errors import run_remedy, write_remedy


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "free some space"),
        (PermissionError(errno.EACCES, "Permission denied"), "check its place and permissions"),
        (OSError(errno.EROFS, "Read-only file system"), "check its place and permissions"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory"), "check its place and permissions"),
        (RuntimeError("a library's own"), "free some space or check its permissions"),
    ],
)
def test_the_remedy_is_that_of_the_error(error: Exception, remedy: str) -> None:
    assert write_remedy(error) == remedy
    assert run_remedy(error) == f"{remedy} and start again with --resume"
