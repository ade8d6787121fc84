"""A finished run as Ray Serve deployments: the HTTP interface, predictors, and where asked the MLLM. See `build`.

    Api         reads and checks requests; knows no model; one replica, since it only waits
    Predictor   a run's version; requests that come together are answered together; replicas come and go with the load
    Prior       the MLLM of that run, with SAM where it draws masks, for all predictors (`ServeConfig.prior`)

Which checkpoint is served is `user_config` alone, `{"checkpoint": "/runs/mine"}`; `asked`, any word that is new, has
the same path loaded again. Serve hands it to the living replicas: each loads it beside the old one, which answers
meanwhile, and then changes over between two batches. One that cannot be loaded is refused, and the old one stays. One
of another MLLM, where that has a deployment of its own, makes the replicas raise, and Serve starts others in their
place.

    import_path: l2l_ray.actors.deployments:build      in a config file of Serve's own, for `serve deploy` and KubeRay
    args: {settings: {...}, token_sha256: "..."}
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatusOverview, ServeStatus

from l2l_ray.actors.batching import MicroBatcher
from l2l_ray.actors.cluster import device_for, resource_options
from l2l_ray.actors.remote_mllm import RemoteMllm
from l2l_ray.actors.serve_states import API, APP, PREDICTOR, PRIOR
from l2l_ray.config import PriorConfig
from l2l_ray.device import DeviceFailed, is_out_of_memory
from l2l_ray.errors import CheckpointError, L2LError, one_line
from l2l_ray.loop.inference.asking import answer_pictures, draw_pictures
from l2l_ray.predictor import run_and_version
from l2l_ray.prior.loading import PriorModels, identify_prior, identify_sam
from l2l_ray.prior.reply import MllmIdentity, Reply
from l2l_ray.serving.answers import Answerer, Prepared
from l2l_ray.serving.api import make_app
from l2l_ray.serving.guard import Refusal
from l2l_ray.serving.settings import BuildArgs, ServeConfig
from l2l_ray.serving.uploads import Upload
from l2l_ray.storage import place
from l2l_ray.types import Prior

logger = logging.getLogger(__name__)

STATUS_AGE_S = 1.0  # everybody may ask whether the server is ready; the controller is asked this often at most
STATUS_TIMEOUT_S = 5.0
HEALTH_PERIOD_S = 2.0  # a dead replica is replaced after that long, one whose device failed after three times that
HEALTH_TIMEOUT_S = 60.0  # a replica that computes on all cores answers late
_CONFIGURED = "Serve configures a replica before it hands it requests"
DRAIN_S = 1.0  # how often a replica that is to end looks whether its requests are done


class OtherMllm(CheckpointError):
    """A checkpoint has another MLLM, or another SAM, than the deployment that is asked holds."""


def build(args: dict[str, Any]) -> serve.Application:
    """Return the application that Serve runs.

    Args:
        args: `BuildArgs`, as a config file says them.
    Raises:
        ValidationError: They are not.
    """
    checked = BuildArgs.model_validate(args)
    settings, patience = checked.settings, _patience(checked.settings)
    prior = None
    if settings.prior:
        options = resource_options(settings.prior_resources)
        prior = serve.deployment(name=PRIOR, ray_actor_options=options, **patience)(PriorReplica).bind(settings)
    grows = settings.max_replicas > settings.replicas
    size: dict[str, Any] = {"num_replicas": settings.replicas}
    if grows:
        bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
        size = {"autoscaling_config": {**bounds, "target_ongoing_requests": settings.max_batch}}
    predictor = serve.deployment(
        name=PREDICTOR,
        max_ongoing_requests=settings.max_ongoing,
        max_queued_requests=settings.max_queued,
        ray_actor_options=resource_options(settings.replica_resources),
        **size,
        **patience,
    )(PredictorReplica).bind(settings, prior)
    # It refuses by itself what is too much, with a word and Retry-After; Serve's own bound must not come before.
    api = serve.deployment(name=API, max_ongoing_requests=100_000, ray_actor_options={"num_cpus": 0}, **patience)(
        ApiReplica
    )
    return api.bind(settings, checked.token_sha256, predictor)


def _patience(settings: ServeConfig) -> dict[str, Any]:
    return {
        "graceful_shutdown_timeout_s": settings.timeout_s + DRAIN_S,
        "health_check_period_s": HEALTH_PERIOD_S,
        "health_check_timeout_s": HEALTH_TIMEOUT_S,
        "graceful_shutdown_wait_loop_s": DRAIN_S,
    }


class OnDevice:
    """A replica that tells Serve when its device has failed, so that another process takes its place."""

    _failure = ""

    @contextmanager
    def noticing(self) -> Iterator[None]:
        """Remember that the device failed in the block."""
        try:
            yield
        except DeviceFailed as error:
            self._failure = str(error)
            raise

    def check_health(self) -> None:
        """Answer Serve, which ends a replica that raises some times in a row.

        Raises:
            DeviceFailed: Its device has.
        """
        if self._failure:
            raise DeviceFailed(self._failure)


class PredictorReplica(OnDevice):
    """A run's version, answering batches in a thread.

    Args:
        settings: Batch size, threads, resources.
        prior: The MLLM's deployment; None = this replica loads its own.
    """

    def __init__(self, settings: ServeConfig, prior: DeploymentHandle[Any] | None) -> None:
        import torch

        torch.set_num_threads(settings.threads)
        self._settings, self._prior = settings, prior
        self._answerer: Answerer | None = None
        self._asked = self._problem = ""
        # Not `serve.batch`: it puts the next batch together while the last one is in work, from the few that are there.
        self._batcher = MicroBatcher(self._answer_batch, settings.max_batch, settings.batch_wait_s)
        self._awaited_until = 0.0  # by `time.monotonic`: then nobody waits for the batch in work any more

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        """Change over to another checkpoint, `{"checkpoint": "/runs/mine"}`; the old one answers meanwhile.

        One that cannot be loaded, or does not fit into memory beside the old one, leaves that in its place. Serve calls
        this only where something in it differs; `asked`, any word, is there to differ where the path is the same.

        Raises:
            L2LError: There is no old one, and this one cannot be loaded.
            OtherMllm: The MLLM's deployment is about to hold another one than the old checkpoint needs. Serve ends a
                replica that raises, and starts one with the new checkpoint in its place.
        """
        try:
            self._answerer = await asyncio.to_thread(self._loaded, place(user_config["checkpoint"]))
            self._problem = ""
        except OtherMllm:
            raise
        except Exception as error:
            if self._answerer is None or not (isinstance(error, L2LError | OSError) or is_out_of_memory(error)):
                raise
            self._problem = one_line(error)
            if is_out_of_memory(error):
                self._problem = (
                    f"{user_config['checkpoint']} does not fit into memory beside the one that answers: "
                    f"{self._problem}; end the server, and start it with this one"
                )
            logger.error("the checkpoint stays %s: %s", self._answerer.name, self._problem)
        self._asked = user_config.get("asked", "")

    def _loaded(self, checkpoint: Path) -> Answerer:
        device = device_for(self._settings.replica_resources)
        if self._prior is None:
            return Answerer.load(checkpoint, device=device, before=self._answerer)
        remote = RemoteMllm(self._prior, checkpoint, lambda: self._awaited_until - time.monotonic())
        return Answerer.load(checkpoint, remote, device, sam=remote)

    async def state(self) -> dict[str, str]:
        """Return which checkpoint answers, the `asked` of the last `user_config`, and why that failed ("" = not)."""
        name = self._answerer.name if self._answerer else ""
        return {"checkpoint": name, "asked": self._asked, "problem": self._problem}

    async def answer(self, upload: Upload) -> dict[str, Any] | Refusal:
        """Return the answer to a request, or why there is none."""
        started = time.monotonic()
        try:
            prepared = await asyncio.to_thread(Answerer.prepare, upload)
        except Refusal as refusal:
            return refusal
        ((answer, predicted_s),) = await self._batcher.submit([(prepared, started)])
        if isinstance(answer, Refusal):
            return answer
        waited = time.monotonic() - started - prepared.seconds - predicted_s
        return {**answer, "seconds": {"decode": prepared.seconds, "wait": waited, "predict": predicted_s}}

    def _answer_batch(self, batch: list[tuple[Prepared, float]]) -> list[tuple[dict[str, Any] | Refusal, float]]:
        """Answer requests, each with the time when it came."""
        assert self._answerer is not None, _CONFIGURED
        started = time.monotonic()
        self._awaited_until = max(came for _, came in batch) + self._settings.timeout_s
        with self.noticing():
            answers = self._answerer.answer([prepared for prepared, _ in batch])
        seconds = time.monotonic() - started
        return [(answer, seconds) for answer in answers]


class PriorReplica(OnDevice):
    """The frozen MLLM of a run, with SAM where it draws masks, for all predictor replicas.

    Args:
        settings: Threads, resources.
    """

    def __init__(self, settings: ServeConfig) -> None:
        import torch

        torch.set_num_threads(settings.threads)
        self._device = device_for(settings.prior_resources)
        self._models: PriorModels | None = None
        # The models answer one batch at a time; one that is cancelled before its turn is not answered at all.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="prior")

    async def reconfigure(self, user_config: dict[str, str]) -> None:
        """Load the MLLM of a checkpoint's run; another checkpoint must have one that answers the same.

        Serve ends a replica that raises here, and starts one with the new checkpoint in its place.

        Raises:
            OtherMllm: The other checkpoint has another one.
            L2LError: It cannot be loaded.
        """
        checkpoint = place(user_config["checkpoint"])
        config = await asyncio.to_thread(self._config_of, checkpoint)
        models = PriorModels(config)
        if self._models is not None:
            if config == self._models.config:
                return
            await self.identity(checkpoint)
            models = await asyncio.to_thread(self._models.changed_to, config)  # perhaps with another SAM, or with none
        await asyncio.to_thread(models.load)
        self._models = models

    async def identity(self, checkpoint: Path) -> MllmIdentity:
        """Return which MLLM this is, and with which SAM a checkpoint draws, for a predictor of it.

        Raises:
            OtherMllm: The checkpoint was trained with another MLLM.
        """
        assert self._models is not None, _CONFIGURED
        config = await asyncio.to_thread(self._config_of, checkpoint)
        await asyncio.to_thread(_require_same, self._models.config, config, checkpoint)
        sam = await asyncio.to_thread(identify_sam, config)
        return replace(MllmIdentity.of(self._models.mllm), sam=sam)

    def _config_of(self, checkpoint: Path) -> PriorConfig:
        config = run_and_version(checkpoint)[0].config.prior
        return config.model_copy(update={"device": self._device}) if config.device == "auto" else config

    async def ask(self, images: list[Image.Image], expressions: list[str], fingerprint: str) -> list[Reply]:
        """Answer questions about open pictures; see `answer_pictures`.

        Raises:
            OtherMllm: Whoever asks takes this for another model: it was replaced meanwhile.
        """
        assert self._models is not None, _CONFIGURED
        if fingerprint != self._models.mllm.fingerprint:
            raise OtherMllm("another language model answers here now, expected the checkpoint's; ask again later")
        return await self._one_batch(answer_pictures, self._models.mllm, images, expressions)

    async def draw(self, images: list[Image.Image], priors: list[Prior], sam: str) -> list[Reply]:
        """Draw masks of priors; see `draw_pictures`.

        Raises:
            OtherMllm: Whoever asks expects another SAM: it was replaced meanwhile, or is not yet here.
        """
        assert self._models is not None, _CONFIGURED
        if sam != self._models.sam_identity:
            raise OtherMllm("another SAM draws here now, expected the checkpoint's; ask again later")
        return await self._one_batch(draw_pictures, self._models.sam, images, priors)

    async def _one_batch(self, answer: Callable[..., list[Reply]], *batch: Any) -> list[Reply]:
        with self.noticing():
            return await asyncio.get_running_loop().run_in_executor(self._thread, answer, *batch)


@serve.ingress()
class ApiReplica:
    """The HTTP interface; a `serving.api.Backend` that asks predictor replicas.

    Args:
        settings: Limits.
        token_sha256: Hash of the token.
        predictor: Of `PredictorReplica`.
    """

    def __init__(self, settings: ServeConfig, token_sha256: str, predictor: DeploymentHandle[Any]) -> None:
        self._settings, self._token_sha256, self._predictor = settings, token_sha256, predictor
        self._looked_at = 0.0
        self._look: asyncio.Task[ServeStatus] | None = None  # one at a time, whoever asks

    def __serve_build_asgi_app__(self) -> Any:
        """Return the application; Serve calls this once."""
        return make_app(self._settings, self._token_sha256, self)

    async def answer(self, upload: Upload) -> dict[str, Any]:
        """Return what a predictor replica answers.

        Raises:
            Refusal: It refuses, too many wait, or it ended.
        """
        try:
            answer: dict[str, Any] | Refusal = await self._predictor.answer.remote(upload)
        except BackPressureError:
            raise Refusal(
                503, f"more than {self._settings.max_queued} requests wait for a predictor; ask again later"
            ) from None
        except (DeploymentUnavailableError, RayServeException, RayError) as error:
            logger.error("no answer from a predictor", exc_info=error)
            raise Refusal(
                503, f"a predictor failed while it worked on this ({type(error).__name__}); ask again later"
            ) from None
        if isinstance(answer, Refusal):
            raise answer
        return answer

    async def problem(self) -> str:
        """Return why nothing can be answered now, as Serve's controller sees it; "" = it can."""
        if self._look is None or (self._look.done() and time.monotonic() - self._looked_at > STATUS_AGE_S):
            self._looked_at = time.monotonic()
            self._look = asyncio.create_task(asyncio.to_thread(serve.status))
        done, _ = await asyncio.wait({self._look}, timeout=STATUS_TIMEOUT_S)
        if not done or self._look.exception() is not None:
            return "Serve's controller does not answer"
        return predictor_problem(self._look.result().applications.get(APP))


def predictor_problem(app: ApplicationStatusOverview | None) -> str:
    """Return why no predictor of the application can answer; "" = one can."""
    predictor = app.deployments.get(PREDICTOR) if app else None
    if predictor is None:
        return "no predictor is deployed"
    running = [state for state, count in predictor.replica_states.items() if count and state in ("RUNNING", "UPDATING")]
    return "" if running else f"no predictor runs, {predictor.status.lower()}"


def require_same_mllm(old: Path, new: Path) -> None:
    """Refuse a change of checkpoint that would need another MLLM, where that has a deployment of its own.

    Raises:
        OtherMllm: It would.
        L2LError: One of the two cannot be read.
    """
    _require_same(run_and_version(old)[0].config.prior, run_and_version(new)[0].config.prior, new)


def _require_same(served: PriorConfig, wanted: PriorConfig, checkpoint: Path) -> None:
    """Refuse a checkpoint whose MLLM gives other answers than the one that is served."""
    if wanted != served and identify_prior(wanted).fingerprint != identify_prior(served).fingerprint:
        raise OtherMllm(
            f"{checkpoint} was trained with another language model than the one that is served, which a server with "
            "`prior` cannot change; start a server for it"
        )
