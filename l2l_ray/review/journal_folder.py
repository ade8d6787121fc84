"""The folder that a review journal lies in, and whether it is still where it was."""

from __future__ import annotations

import os
import weakref
from contextlib import suppress
from pathlib import Path

from l2l_ray.errors import DataError
from l2l_ray.storage import StorePath


class JournalFailure(DataError):
    """The journal's folder or disk fails: nothing is wrong with what was asked, which may be sent again later."""


class JournalFolder:
    """A run's folder, held open: while it is, no other folder gets its number, also where it is removed.

    Args:
        path: The folder. In an object store, and where it cannot be opened, nothing is held or asked.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._handle = path, -1
        if isinstance(path, StorePath):
            return
        with suppress(OSError):
            self._handle = os.open(path, os.O_RDONLY)
            weakref.finalize(self, os.close, self._handle)

    def require_there(self, before: str = "") -> None:
        """Refuse a folder that was moved, removed or replaced since it was opened.

        Args:
            before: Words in front of what is said, such as "not saved: ".
        Raises:
            JournalFailure: Its path leads to no folder any more, or to another one.
        """
        if self._handle < 0:
            return
        try:
            is_same = os.path.samestat(os.fstat(self._handle), os.stat(self._path))
        except FileNotFoundError:
            is_same = False
        except OSError as error:
            raise JournalFailure(f"{before}{self._path} cannot be read: {error}; check its permissions") from error
        if not is_same:
            raise JournalFailure(
                f"{before}the run is no longer in {self._path}: its folder was moved, removed or replaced; put it back"
            )
