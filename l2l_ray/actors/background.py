"""A function in a thread, whose failure is not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from l2l_ray.errors import ClusterError, L2LError

T = TypeVar("T")


class Background(Generic[T]):
    """Runs a function in a daemon thread; whoever depends on it calls `check` now and then.

    Example: `trainer = Background("train group", fit_it); ...; trainer.check()`
    """

    def __init__(self, name: str, function: Callable[[], T]) -> None:
        self.name = name
        self._function = function
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the function is still running."""
        return self._thread.is_alive()

    @property
    def done(self) -> bool:
        """Whether the function returned without an error."""
        return not self.alive and self._error is None

    def check(self) -> None:
        """Raise the function's error, if it ended with one.

        Raises:
            L2LError: The function's own L2LError, or a ClusterError around anything else.
        """
        if isinstance(self._error, L2LError):
            raise self._error
        if self._error is not None:
            raise ClusterError(
                f"the {self.name} failed for good: {self._error}; what is committed stays, --resume continues"
            ) from self._error

    def join(self, timeout_s: float) -> bool:
        """Wait for the end; False when it does not come in time."""
        self._thread.join(timeout_s)
        return not self.alive

    def _work(self) -> None:
        try:
            self._function()
        except Exception as error:  # a thread's exception would otherwise vanish; `check` raises it
            self._error = error
