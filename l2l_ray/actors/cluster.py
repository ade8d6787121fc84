"""Make sure, before anything starts, that a Ray cluster can hold what the run asks for; start actors and end them.

Ray lets an actor that fits nowhere wait for ever without a word, so demand and supply are compared first
(`require_fit`), a job that others leave no room for waits in line and says who holds it (`wait_for_room`), and
every actor then has a bounded time to come up (`wait_ready`). Two runs that look in the same second may both be let in;
then the one whose actors do not come up ends with a message.

A cluster that grows is told by `cluster.autoscaled`: Ray does not tell what could still come.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.actor import ActorHandle
from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayTaskError,
)
from ray.util.state import list_actors
from ray.util.state.exception import RayStateApiException

from l2l_ray.config import ClusterConfig, PriorConfig, RunConfig
from l2l_ray.errors import ClusterError, L2LError
from l2l_ray.wording import Say

A = TypeVar("A")

LOOK_FOR_ROOM_S = 1.0
END_TIMEOUT_S = 10.0  # an idle actor leaves within a second or two

PREDEFINED_RESOURCES = ("CPU", "GPU", "memory", "object_store_memory")
# What a call to an actor that is gone raises: it died, was killed for want of memory, or its node went with the answer.
LOST = (RayActorError, OutOfMemoryError, NodeDiedError, ObjectLostError)
MAX_RESTARTS = 20  # of one actor that Ray itself starts again
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


def require_fit(
    demand: Sequence[Need], config: ClusterConfig, nodes: Sequence[Mapping[str, float]], remedy: str = ""
) -> None:
    """Compare what is wanted with what a cluster has, unless nodes come when they are asked for.

    Args:
        demand: What is going to be started.
        config: Says whether nodes come.
        nodes: Resources of each living node.
        remedy: What to do where it does not fit; "" = what a run can change.
    Raises:
        ClusterError: Something is missing; says what, for whom, and what to change.
    """
    if not config.autoscaled and (problem := shortage(demand, nodes, remedy)):
        raise ClusterError(f"{problem}; where an autoscaler adds nodes, set cluster.autoscaled")


def wait_for_room(demand: Sequence[Need], config: ClusterConfig, say: Say) -> None:
    """Wait until everything a run needs is free at once, so that two runs never hold a part each and wait for the rest.

    It ends when who holds it leaves; that may take hours, so what is waited for is said. Where an autoscaler adds nodes
    it is the demand that makes room, so nothing is waited for.

    Args:
        demand: What the run is going to start.
        config: Says whether nodes come.
        say: Told what is waited for and who holds it, each time anew.
    Raises:
        ClusterError: It will never be free: nodes have left.
    """
    while not config.autoscaled and (lacking := _not_free(demand)) is not None:
        require_fit(demand, config, node_resources())
        say(lacking)
        time.sleep(LOOK_FOR_ROOM_S)


def wait_in_line(demand: Sequence[Need], config: ClusterConfig, say: Say, remedy: str = "") -> None:
    """As `require_fit` and then `wait_for_room`, for a job that writes lines: each is written once.

    What is only just being released, as by this very job, is worth none.

    Args:
        demand: What is going to be started.
        config: Says whether nodes come.
        say: Told what is waited for and who holds it, once two looks in a row have found the same.
        remedy: As in `require_fit`.
    Raises:
        ClusterError: Something is missing.
    """
    require_fit(demand, config, node_resources(), remedy)
    seen = said = ""

    def look(what: str) -> None:
        nonlocal seen, said
        if what == seen != said:
            say(f"waiting for {what}")
            said = what
        seen = what

    wait_for_room(demand, config, look)


def _not_free(demand: Sequence[Need]) -> str | None:
    available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    wanted = total(demand)
    lacking = [name for name, amount in wanted.items() if amount > available.get(name, 0.0) + _SLACK]
    what = ", ".join(f"{wanted[name]:g} {name} ({available.get(name, 0.0):g} free)" for name in lacking)
    return f"{what}; held by {', '.join(holders(lacking)) or 'nobody any more'}" if lacking else None


def holders(resources: Sequence[str]) -> list[str]:
    """Name the living actors that hold one of these resources, e.g. `prior-0 of l2l-smoke-1a2b`."""
    address = ray.get_runtime_context().gcs_address  # the state API would look for any cluster of this machine
    try:
        alive = list_actors(address=address, filters=[("state", "=", "ALIVE")], detail=True, limit=1000)
    except (RayStateApiException, ConnectionError):  # no dashboard, or it is busy
        return ["actors that Ray's dashboard does not tell now"]
    # In a placement group what is held is called `CPU_group_<id>`, and also `CPU_group_<number>_<id>`.
    found = [a for a in alive if {name.partition("_group_")[0] for name in a.required_resources or {}} & set(resources)]
    return sorted(f"{actor.name or actor.class_name} of {actor.ray_namespace}" for actor in found)


def node_resources() -> list[dict[str, float]]:
    """Return the resources of each living node of the connected cluster."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [node["Resources"] for node in nodes if node["Alive"]]


def namespace_of(config: RunConfig) -> str:
    """Return the Ray namespace of this driver's actors; see `namespace_for`."""
    return namespace_for(config.run_name, config.run_dir)


def namespace_for(name: str, folder: Path) -> str:
    """Return a Ray namespace for a job's actors: what it works on, four digits of its folder, and Ray's job id.

    Two roots do not meet, nor a resumed run with what its killed driver leaves for a moment.
    """
    digits = hashlib.sha256(str(folder).encode()).hexdigest()[:4]
    return f"l2l-{name}-{digits}-{ray.get_runtime_context().get_job_id()}"


def device_for(resources: Mapping[str, float]) -> str:
    """Return the device of an actor with these resources: `cpu` without a GPU of its own, also where it can see one."""
    return "auto" if resources.get("GPU", 0) > 0 else "cpu"


def prior_of_actors(config: RunConfig) -> PriorConfig:
    """Return the prior section of a run with the device that its prior actors have."""
    if config.prior.device != "auto":
        return config.prior
    return config.prior.model_copy(update={"device": device_for(config.cluster.prior_resources)})


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
    """Start an actor; its name tells people who it is, nobody looks it up.

    Args:
        kind: A plain class.
        options: Of `actor_options`, and more of Ray's.
        *args: Of its constructor.
    Raises:
        ClusterError: The namespace has an actor of this name.
    """
    more = dict(options)
    groups = more.pop("concurrency_groups", None)  # Ray takes these here alone
    remote: Any = ray.remote(kind)
    if groups:
        remote = ray.remote(concurrency_groups=groups)(kind)  # type: ignore[call-overload]
    try:
        handle: ActorHandle[A] = remote.options(**more).remote(*args)
    except ValueError as error:
        raise ClusterError(f"actor {options['name']} of {options['namespace']} cannot be started: {error}") from error
    return handle


def end_in_order(actors: Sequence[ActorHandle[Any]], timeout_s: float = END_TIMEOUT_S) -> None:
    """Let actors end what they were asked and leave; those that have not left in time are killed."""
    leaving: dict[Any, ActorHandle[Any]] = {
        actor.__ray_terminate__.options(max_task_retries=0).remote(): actor for actor in actors
    }
    if leaving:
        _, late = ray.wait(list(leaving), num_returns=len(leaving), timeout=timeout_s)
        for ref in late:
            ray.kill(leaving[ref])


def cannot_start(error: Exception) -> bool:
    """Whether an actor was lost by an error of its own at its start: the next one would fail alike."""
    return isinstance(error, RayActorError) and error.actor_init_failed


def require_startable(name: str, error: Exception) -> None:
    """Refuse to replace an actor that was lost by an error of its own at its start.

    Raises:
        ClusterError: With that error.
    """
    if cannot_start(error):
        raise ClusterError(f"{name} cannot start: {error}") from error


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
    try:
        return ray.get([actor.ready.remote() for actor in actors], timeout=timeout_s)
    except GetTimeoutError:
        available: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        free = {name: amount for name, amount in available.items() if ":" not in name}
        raise ClusterError(
            f"not every {role} came up within cluster.start_timeout_s={timeout_s:g}; free resources now: {free}; "
            "it may still be loading, or another run may hold the rest: wait for it, or raise cluster.start_timeout_s"
        ) from None
    except LOST as error:
        raise ClusterError(f"a {role} died while starting: {error}") from error
