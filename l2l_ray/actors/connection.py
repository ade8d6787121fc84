"""Reach a Ray cluster for the length of a job, and see it go away.

Which cluster: the address in the config, else `RAY_ADDRESS` (set by `ray job submit` for its jobs), else a private one
for this process, on loopback, with the custom resources the config names, in a temporary folder of its own. A cluster
is never looked for: an address file left behind by a killed head would be picked up and hang the run.

The processes of a private cluster have a session of their own, so that Ctrl-C in a terminal reaches this process alone,
which then ends them in order. A cluster that no longer answers is named at once, and ends the job before Ray kills it.

The terminal shows the driver's words only; what actors log is in the dashboard and in Ray's session folder.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import ray

from l2l_ray.actors import session
from l2l_ray.actors.cluster import PREDEFINED_RESOURCES, needs, total
from l2l_ray.actors.environment import address_of
from l2l_ray.actors.reach import require_answer
from l2l_ray.config import ClusterConfig
from l2l_ray.errors import ClusterError
from l2l_ray.job import signals_as_ctrl_c, take_signals

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0
PATIENCE_S = 40.0  # a head that restarts or is busy may be silent so long; after 60 s Ray kills the driver
END_TIMEOUT_S = 10.0  # that releasing what was held may take where nothing answers


@contextmanager
def connected(config: ClusterConfig) -> Iterator[str]:
    """Connect for the length of a `with` block and say where the dashboard is.

    A connection that exists already is used and left as it was.

    Raises:
        ClusterError: The address does not answer, or does not let us in, or the cluster has gone meanwhile.
    """
    if ray.is_initialized():
        yield "that of the connected cluster"
        return
    address = address_of(config)
    private = address is None
    if address is not None:
        require_answer(address)
    with signals_as_ctrl_c(), _private_folder() if private else nullcontext() as folder:
        context = _connect(address, config)
        by_client = "://" in str(address)  # which does not know where the head is
        watch = Watch("" if by_client else ray.get_runtime_context().gcs_address)
        try:
            path = folder / "auth_token" if folder else session.token_path(str(address))
            token = f" (it asks for the token in {path})" if path is not None and path.exists() else ""
            with _watched(watch):
                yield f"http://{context.dashboard_url}{token}" if context.dashboard_url else "off"
        finally:
            try:
                ray.shutdown()
            finally:
                watch.released.set()
                take_signals()  # Ray's libraries set the system's default, which ends the process without a word


def _connect(address: str | None, config: ClusterConfig) -> Any:
    """Connect to the cluster at an address, or start a private one, and return Ray's context.

    Raises:
        ClusterError: It cannot be reached.
    """
    private = address is None
    options = _private_options(config) if private else {}
    try:
        with _own_session() if private else nullcontext():
            return ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ClusterError(f"cannot reach Ray at {address!r}: {error}; `make cluster-up` starts one") from error
    except SystemExit:  # by Ray's own handler of SIGTERM, which is there from here on
        raise KeyboardInterrupt from None
    finally:
        take_signals()


def still_answers() -> bool:
    """Return whether the connected cluster answers; where it does not, whatever is asked of it would hang."""
    try:
        require_answer(ray.get_runtime_context().gcs_address)
    except ClusterError:
        return False
    return True


_is_starting = False  # a private cluster


def _leave_session() -> None:
    if _is_starting:
        os.setsid()


os.register_at_fork(after_in_child=_leave_session)  # Ray starts its processes by a fork that runs Python


@contextmanager
def _own_session() -> Iterator[None]:
    """Give every process that is started meanwhile a session of its own: a terminal signals all of this one."""
    global _is_starting
    _is_starting = True
    try:
        yield
    finally:
        _is_starting = False


@contextmanager
def _watched(watch: Watch) -> Iterator[None]:
    """End the block with a word where the cluster goes away; Ray itself would say nothing, then kill the process.

    Raises:
        ClusterError: The cluster does not answer any more.
    """
    threading.Thread(target=watch.run, name="cluster watch", daemon=True).start()
    try:
        yield
    except (Exception, KeyboardInterrupt) as error:
        if not watch.problem or (isinstance(error, KeyboardInterrupt) and not watch.is_gone):
            raise
        raise ClusterError(watch.problem) from error
    finally:
        watch.over.set()


class Watch:
    """Looks whether a cluster still answers; where it does not, tells this process to end as SIGTERM does.

    Args:
        address: Of the cluster's head, `host:port`; "" = unknown, so nothing is looked at.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.problem = ""  # why it did not answer when it was last asked; "" = it did
        self.is_gone = False  # it has not answered for `PATIENCE_S`, and this process was told
        self.over = threading.Event()  # nobody needs the cluster any more
        self.released = threading.Event()  # and nothing of it is held

    def run(self) -> None:
        """Look until it is over, or the cluster has gone."""
        silent_since = time.monotonic()
        while self._address and not self.over.wait(LOOK_EVERY_S):
            try:
                require_answer(self._address, "start it, then this job, again")
                self.problem, silent_since = "", time.monotonic()
            except ClusterError as error:
                if not self.problem:
                    logger.warning("%s; this job ends unless it does within %g s", error, PATIENCE_S)
                self.problem = f"the Ray cluster went away: {error}"
            if time.monotonic() - silent_since > PATIENCE_S:
                self._end()
                return

    def _end(self) -> None:
        self.is_gone = True
        os.kill(os.getpid(), signal.SIGTERM)
        if not self.released.wait(END_TIMEOUT_S):  # something waits for an answer and cannot be interrupted
            sys.stderr.write(f"{self.problem}\n")
            sys.stderr.flush()
            os._exit(1)


def _private_options(config: ClusterConfig) -> dict[str, Any]:
    """Give a one-process cluster at least what the run asks for; CPU slots may exceed cores, they only count."""
    wanted = total(needs(config))
    custom = {name: amount for name, amount in wanted.items() if name not in PREDEFINED_RESOURCES}
    cpus = max(os.cpu_count() or 1, math.ceil(wanted.get("CPU", 0.0)))
    return {"num_cpus": cpus, "resources": custom, "dashboard_host": "127.0.0.1", "include_dashboard": True}


@contextmanager
def _private_folder() -> Iterator[Path]:
    """Keep Ray's session files apart from other clusters; a short path, because Unix socket names are limited."""
    before = os.environ.get("RAY_TMPDIR")
    folder = session.new_folder(os.environ.get("RAY_AUTH_TOKEN"))
    os.environ["RAY_TMPDIR"] = str(folder)
    try:
        yield folder
    finally:
        session.remove_folder(folder)
        if before is None:
            del os.environ["RAY_TMPDIR"]
        else:
            os.environ["RAY_TMPDIR"] = before
