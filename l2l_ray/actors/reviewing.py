"""The review page of a finished run under `/review/`: a Ray Serve application beside the predictors'. See `build`.

One replica, a process of its own: reading files, and the model that a reviewer asks, keep no prediction waiting, and it
alone writes the journal. It stays with the run that it was started for: a change of the predictors' checkpoint is one
of another application.

    import_path: l2l_ray.actors.reviewing:build        in a config file of Serve's own, with route_prefix: /review
    args: {run: /shared/runs/mine, token_sha256: "...", addresses: ["https://serve.example.org"]}
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from l2l_ray.actors.cluster import device_for, resource_options
from l2l_ray.config.sections import Resources
from l2l_ray.errors import ConfigError
from l2l_ray.predictor import run_and_version
from l2l_ray.review.app import make_app
from l2l_ray.review.journal import Journal
from l2l_ray.review.labels import Labels
from l2l_ray.serving.settings import Origin, ServeConfig, TokenHash
from l2l_ray.storage import StorePath, place

REVIEW_APP, REVIEW, ROUTE = "l2l-review", "Review", "/review"
MAX_OPEN = 1000  # requests at once; those that wait for the model must not keep others from saving
END_S = 10.0  # that a request in work has when the server ends; a line of the journal takes milliseconds


class ReviewArgs(BaseModel):
    """What `build` is told.

    Args:
        run: Folder of a finished run, on a disk or filesystem that the replica's node sees.
        token_sha256: As in `BuildArgs`.
        addresses: Under which the server is opened in browsers, see `ServeConfig.addresses`.
        resources: Ray resources of the replica.
        threads: torch threads of the replica.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)  # as in `BuildArgs`

    run: str
    token_sha256: TokenHash
    addresses: tuple[Origin, ...] = Field(min_length=1)
    resources: Resources = {"CPU": 0.5}
    threads: int = Field(1, ge=1)


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application that Serve runs.

    Args:
        args: `ReviewArgs`, as a config file says them.
    Raises:
        ValidationError: They are not.
    """
    checked = ReviewArgs.model_validate(args)
    return serve.deployment(
        name=REVIEW,
        max_ongoing_requests=MAX_OPEN,
        ray_actor_options=resource_options(checked.resources),
        graceful_shutdown_timeout_s=END_S,
    )(ReviewReplica).bind(checked)


def application(run_dir: Path, settings: ServeConfig, token_sha256: str) -> dict[str, Any]:
    """Return the application as a config of Serve's says it."""
    args = ReviewArgs(
        run=str(run_dir.resolve()),
        token_sha256=token_sha256,
        addresses=settings.addresses,
        resources=settings.review_resources,
        threads=settings.threads,
    )
    return {
        "name": REVIEW_APP,
        "route_prefix": ROUTE,
        "import_path": "l2l_ray.actors.reviewing:build",
        "args": args.model_dump(mode="json"),
    }


def require_reviewable(checkpoint: Path) -> None:
    """Refuse what cannot be reviewed on a server, before anything is served.

    Raises:
        ConfigError: It lies in an object store, or is a version and no run, or the run is not finished.
        L2LError: It has no labels, its journal cannot be read, or nothing could be decided there.
    """
    if isinstance(checkpoint, StorePath):
        raise ConfigError(
            f"the review page needs a run on a disk or a shared filesystem, got {checkpoint}: decisions are appended "
            "to a file, and nothing is appended to an object; copy the run, or serve without --review"
        )
    run, method, version = run_and_version(checkpoint)
    if run.path != checkpoint:
        raise ConfigError(
            f"the review page shows the labels of a whole run, got {method} version {version} of one; give the run's "
            f"folder {run.path}, or serve without --review"
        )
    Labels(checkpoint)
    Journal(checkpoint).require_writable()


def app_of(args: ReviewArgs) -> FastAPI:
    """Return the application over HTTP that a replica runs.

    Raises:
        L2LError: As `require_reviewable`: perhaps another node than the command's cannot see the run.
    """
    run_dir = place(args.run)
    require_reviewable(run_dir)
    return make_app(run_dir, None, args.token_sha256, args.addresses, device_for(args.resources))


@serve.ingress()
class ReviewReplica:
    """The review page over HTTP.

    Args:
        args: Which run, for whom.
    """

    def __init__(self, args: ReviewArgs) -> None:
        import torch

        torch.set_num_threads(args.threads)
        self._args = args

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application; Serve calls this once."""
        return app_of(self._args)
