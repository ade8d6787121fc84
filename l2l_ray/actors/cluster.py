"""Reach a Ray cluster and make sure, before anything starts, that it can hold what the run asks for.

Which cluster: the address in the config, else `RAY_ADDRESS` (set by `ray job submit` for its jobs), else a private one
for this process, on loopback, with the custom resources the config names, in a temporary folder of its own. A cluster
is never looked for: an address file left behind by a killed head would be picked up and hang the run.

Ray lets an actor that fits nowhere wait for ever without a word, so demand and supply are compared first
(`check_resources`), and every actor has a bounded time to come up (`wait_ready`).

The terminal shows the driver's words only; what actors log is in the dashboard and in Ray's session folder.

A cluster that grows is told by `cluster.autoscaled`: Ray does not tell what could still come.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from l2l_ray.actors import session
from l2l_ray.actors.environment import address_of
from l2l_ray.actors.reach import require_answer
from l2l_ray.config import ClusterConfig, RunConfig
from l2l_ray.errors import ClusterError, L2LError

logger = logging.getLogger(__name__)
A = TypeVar("A")

# The actors of a killed driver are gone a second or two after it.
NAME_RELEASE_TIMEOUT_S = 30.0

PREDEFINED_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")
_SLACK = 1e-6  # fractional resources are sums of floats


@dataclass(frozen=True, slots=True)
class Need:
    """What one role asks of the cluster.

    Example: `Need("labeler", 2, {"CPU": 0.25})`
    """

    role: str
    count: int
    each: Mapping[str, float]


def needs(config: ClusterConfig) -> list[Need]:
    """Return what a run needs, role by role."""
    return [
        Need("prior", config.num_priors, config.prior_resources),
        Need("labeler", config.num_labelers, config.labeler_resources),
        Need("train worker", config.num_workers, config.worker_resources),
    ]


def total(demand: Sequence[Need]) -> dict[str, float]:
    """Add up the resources of all roles."""
    added: dict[str, float] = {}
    for need in demand:
        for name, amount in need.each.items():
            added[name] = added.get(name, 0.0) + need.count * amount
    return added


def shortage(demand: Sequence[Need], nodes: Sequence[Mapping[str, float]], remedy: str = "") -> str | None:
    """Say what is missing, or None when every role fits.

    Args:
        demand: What the run asks for.
        nodes: Resources of each living node.
        remedy: What to do about it; "" = what a run can change.
    """
    have = total([Need("node", 1, node) for node in nodes])
    missing = {k: v for k, v in total(demand).items() if v > have.get(k, 0.0) + _SLACK}
    if missing:
        what = "; ".join(_missing_line(name, amount, have.get(name, 0.0), demand) for name, amount in missing.items())
        return f"the cluster is too small: {what}; {remedy or _remedy(missing)}"
    if too_large := [need for need in demand if not any(_fits(need.each, node) for node in nodes)]:
        what = "; ".join(f"no single node has {dict(n.each)} for one {n.role}" for n in too_large)
        return f"the cluster's nodes are too small: {what}; {remedy or _remedy({})}"
    return None


def _fits(wanted: Mapping[str, float], node: Mapping[str, float]) -> bool:
    return all(node.get(name, 0.0) + _SLACK >= amount for name, amount in wanted.items())


def _missing_line(name: str, amount: float, have: float, demand: Sequence[Need]) -> str:
    users = ", ".join(f"{n.count} {n.role} x {n.each[name]:g}" for n in demand if n.each.get(name))
    return f"need {amount:g} {name} ({users}), have {have:g}"


def _remedy(missing: Mapping[str, float]) -> str:
    if custom := {name: amount for name, amount in missing.items() if name not in PREDEFINED_RESOURCES}:
        flag = ", ".join(f'"{name}": {amount:g}' for name, amount in custom.items())
        return f"start the head with --resources='{{{flag}}}', or change the *_resources of the cluster section"
    return "add nodes, or lower num_priors, num_labelers, num_workers or their *_resources in the cluster section"


def check_resources(config: ClusterConfig) -> None:
    """Compare what the run needs with what the connected cluster has, unless nodes come when they are asked for.

    Raises:
        ClusterError: Something is missing; says what, for whom, and what to change.
    """
    if not config.autoscaled and (problem := shortage(needs(config), node_resources())):
        raise ClusterError(f"{problem}; where an autoscaler adds nodes, set cluster.autoscaled")


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each living node of the connected cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


@contextmanager
def connected(config: ClusterConfig) -> Iterator[str]:
    """Connect for the length of a `with` block and say where the dashboard is.

    A connection that exists already is used and left as it was.

    Raises:
        ClusterError: The address does not answer, or does not let us in.
    """
    if ray.is_initialized():
        yield "that of the connected cluster"
        return
    address = address_of(config)
    private = address is None
    if address is not None:
        require_answer(address)
    with _private_folder() if private else nullcontext() as folder:
        try:
            options = _private_options(config) if private else {}
            context = ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ClusterError(f"cannot reach Ray at {address!r}: {error}; `make cluster-up` starts one") from error
        with _sigterm_as_ctrl_c():
            try:
                path = folder / "auth_token" if folder else session.token_path(str(address))
                token = f" (it asks for the token in {path})" if path is not None and path.exists() else ""
                yield f"http://{context.dashboard_url}{token}" if context.dashboard_url else "off"
            finally:
                ray.shutdown()


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


@contextmanager
def _sigterm_as_ctrl_c() -> Iterator[None]:
    """Let SIGTERM (`ray job stop`) end the job as Ctrl-C does, which releases actors; Ray's own handler aborts."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def namespace_of(config: RunConfig) -> str:
    """Return the run's Ray namespace: its name, and four digits of its folder, so that two roots do not meet."""
    return f"l2l-{config.run_name}-{hashlib.sha256(str(config.run_dir).encode()).hexdigest()[:4]}"


def device_for(resources: Mapping[str, float]) -> str:
    """Return the device of an actor with these resources: `cpu` without a GPU of its own, also where it can see one."""
    return "auto" if resources.get("GPU", 0) > 0 else "cpu"


def actor_options(name: str, namespace: str, resources: Mapping[str, float]) -> dict[str, Any]:
    """Translate a role's name and resources into `ray.remote` options.

    DEFAULT scheduling: actors made inside a Tune trial would otherwise be squeezed into the trial's placement group.
    """
    named: dict[str, Any] = {"name": name, "namespace": namespace, "scheduling_strategy": "DEFAULT"}
    return named | resource_options(resources)


def resource_options(resources: Mapping[str, float]) -> dict[str, Any]:
    """Translate a role's resources into `ray.remote` options."""
    custom = {key: amount for key, amount in resources.items() if key not in PREDEFINED_RESOURCES}
    options: dict[str, Any] = {"num_cpus": resources.get("CPU", 0)}
    if resources.get("GPU"):
        options["num_gpus"] = resources["GPU"]
    if resources.get("memory"):
        options["memory"] = resources["memory"]
    if custom:
        options["resources"] = custom
    return options


def start_actor(kind: type[A], options: Mapping[str, Any], *args: Any) -> ActorHandle[A]:
    """Start a named actor, waiting for the name if its last holder is just going away.

    Raises:
        ClusterError: The name stays taken: another job drives this run.
    """
    deadline = time.monotonic() + NAME_RELEASE_TIMEOUT_S
    while True:
        try:
            handle: ActorHandle[A] = ray.remote(kind).options(**options).remote(*args)  # type: ignore[assignment]
            return handle
        except ValueError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"actor {options['name']} of {options['namespace']} still exists after "
                    f"{NAME_RELEASE_TIMEOUT_S:g} s: another job drives this run; stop it, or choose another --name"
                ) from error
            time.sleep(0.2)


def own_error(error: RayTaskError) -> Exception:
    """Return what an actor raised on purpose as it was, one line; anything else with the actor's traceback."""
    cause: Exception = error.cause
    if isinstance(cause, L2LError):
        return cause
    found: Exception = error.as_instanceof_cause()  # type: ignore[no-untyped-call]
    return found


def wait_ready(role: str, actors: Sequence[ActorHandle[Any]], timeout_s: float) -> list[Any]:
    """Wait until every actor answers `ready()`; return the answers.

    Raises:
        ClusterError: One died while starting (its own error is in the message) or did not come up in time.
    """
    return wait_answers(role, [actor.ready.remote() for actor in actors], timeout_s)


def wait_answers(role: str, refs: Sequence[ray.ObjectRef[Any]], timeout_s: float) -> list[Any]:
    """Wait for the answers that tell that actors are up; errors as in `wait_ready`."""
    try:
        return ray.get(list(refs), timeout=timeout_s)
    except GetTimeoutError:
        available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        free = {name: amount for name, amount in available.items() if ":" not in name}
        raise ClusterError(
            f"not every {role} came up within cluster.start_timeout_s={timeout_s:g}; free resources now: {free}; "
            "it may still be loading, or another run may hold the rest: wait for it, or raise cluster.start_timeout_s"
        ) from None
    except RayActorError as error:
        raise ClusterError(f"a {role} died while starting: {error}") from error
