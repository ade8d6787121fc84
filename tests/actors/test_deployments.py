"""Replicas without Serve: which checkpoints the MLLM's own answers for, and how a predictor changes over to another."""

from __future__ import annotations

import asyncio
import io
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from ray.serve import Application

from l2l_ray.actors.deployments import OtherMllm, PredictorReplica, PriorReplica, build, require_same_mllm
from l2l_ray.config import PriorConfig, read_config, save_config
from l2l_ray.device import DeviceFailed
from l2l_ray.prior import loading
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.reply import PictureMllm, Reply
from l2l_ray.segmenter.model import Segmenter
from l2l_ray.serving.settings import ServeConfig
from l2l_ray.serving.uploads import Upload
from tests.finished_run import PRIOR, write_finished_run
from tests.ray_runs import WAIT_S
from tests.tiny_sams import SAMS


@pytest.fixture
def runs(tmp_path: Path) -> dict[str, Path]:
    """Give runs of one MLLM, the second of which makes something else of its boxes, and one that asks it twice."""
    priors = {
        "first": PriorConfig(),
        "same": PriorConfig(box_softness=0.2, batch_size=3),
        "other": PriorConfig(num_samples=2),
    }
    return {name: write_finished_run(tmp_path / name, prior) for name, prior in priors.items()}


def test_only_what_changes_answers_makes_another_mllm(runs: dict[str, Path]) -> None:
    require_same_mllm(runs["first"], runs["same"])
    with pytest.raises(OtherMllm, match="other/finished was trained with another language model .* start a server"):
        require_same_mllm(runs["first"], runs["other"])


@pytest.mark.usefixtures("one_thread")
def test_the_replica_takes_a_checkpoint_of_the_same_mllm_and_raises_at_another(runs: dict[str, Path]) -> None:
    async def story() -> None:
        replica = PriorReplica(ServeConfig())
        for name in ("first", "same"):
            await replica.reconfigure({"checkpoint": str(runs[name])})
        identity = await replica.identity(runs["first"])
        for wanted in (replica.reconfigure({"checkpoint": str(runs["other"])}), replica.identity(runs["other"])):
            with pytest.raises(OtherMllm, match="another language model"):
                await wanted
        assert await replica.ask([], [], identity.fingerprint) == []
        with pytest.raises(OtherMllm, match="another language model answers here now"):
            await replica.ask([], [], "of the one before")

    asyncio.run(story())


@pytest.mark.usefixtures("one_thread")
def test_a_question_that_nobody_waits_for_any_more_is_not_asked(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    begun, goes_on = threading.Event(), threading.Event()
    ask = MllmPrior.ask

    def held(mllm: MllmPrior, images: list[Image.Image], texts: list[str]) -> list[Reply]:
        asked.extend(texts)
        begun.set()
        assert goes_on.wait(WAIT_S)
        return ask(mllm, images, texts)

    monkeypatch.setattr(MllmPrior, "ask", held)

    async def story() -> None:
        replica, picture = PriorReplica(ServeConfig()), Image.new("RGB", (32, 24))
        await replica.reconfigure({"checkpoint": str(runs["first"])})
        fingerprint = (await replica.identity(runs["first"])).fingerprint
        first, second = (
            asyncio.create_task(replica.ask([picture], [text], fingerprint)) for text in ("circle", "square")
        )
        assert await asyncio.to_thread(begun.wait, WAIT_S)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        goes_on.set()
        await first
        await replica.ask([picture], ["star"], fingerprint)
        assert asked == ["circle", "star"]

    asyncio.run(story())


@pytest.mark.usefixtures("one_thread")
def test_no_checkpoint_gets_masks_of_the_sam_of_another(tmp_path: Path) -> None:
    async def story() -> None:
        runs = {}
        for name in ("sam", "sam2"):
            SAMS[name](tmp_path / name)
            drawn = PriorConfig(proposal="sam", sam_model=str(tmp_path / name))
            runs[name] = write_finished_run(tmp_path / f"run-{name}", drawn)
        replica = PriorReplica(ServeConfig())
        await replica.reconfigure({"checkpoint": str(runs["sam"])})
        old, new = [(await replica.identity(runs[name])).sam for name in ("sam", "sam2")]
        picture = Image.new("RGB", (32, 24))
        (reply,) = await replica.draw([picture], [PRIOR], old)
        assert len(reply.masks) == 1
        with pytest.raises(OtherMllm, match="another SAM draws here now"):
            await replica.draw([picture], [PRIOR], new)  # its checkpoint was loaded before this SAM's was
        await replica.reconfigure({"checkpoint": str(runs["sam2"])})
        assert len((await replica.draw([picture], [PRIOR], new))[0].masks) == 1
        with pytest.raises(OtherMllm, match="another SAM draws here now"):
            await replica.draw([picture], [PRIOR], old)

    asyncio.run(story())


@pytest.mark.usefixtures("one_thread")
def test_a_predictor_loads_the_language_model_of_another_checkpoint_only_where_it_answers_otherwise(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[PriorConfig] = []
    load = loading.load_prior

    def noted(config: PriorConfig) -> PictureMllm:
        loaded.append(config)
        return load(config)

    monkeypatch.setattr(loading, "load_prior", noted)

    async def story() -> None:
        replica = PredictorReplica(ServeConfig(), None)
        for name, num_loaded in (("first", 1), ("same", 1), ("first", 1), ("other", 2)):
            await replica.reconfigure({"checkpoint": str(runs[name])})
            assert len(loaded) == num_loaded and (await replica.state())["problem"] == ""

    asyncio.run(story())


@pytest.mark.usefixtures("one_thread")
def test_a_checkpoint_that_does_not_fit_into_memory_beside_the_old_one_changes_nothing(tmp_path: Path) -> None:
    first, large = write_finished_run(tmp_path), tmp_path / "large"
    shutil.copytree(first, large)
    config = read_config(large / "config.yaml")
    beyond = config.segmenter.model_copy(update={"num_guidance_tokens": 2**44})  # more than any machine can address
    save_config(config.model_copy(update={"segmenter": beyond}), large / "config.yaml")

    async def story() -> None:
        replica = PredictorReplica(ServeConfig(), None)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            await replica.reconfigure({"checkpoint": str(large)})
        await replica.reconfigure({"checkpoint": str(first)})
        await replica.reconfigure({"checkpoint": str(large), "asked": "2"})
        state = await replica.state()
        assert (state["checkpoint"], state["asked"]) == ("finished l2l version 2", "2")
        assert f"{large} does not fit into memory beside the one that answers: " in state["problem"]
        assert state["problem"].endswith("; end the server, and start it with this one")

    asyncio.run(story())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", [MllmPrior, Segmenter])
def test_a_predictor_whose_device_has_failed_tells_serve(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    photo = io.BytesIO()
    Image.new("RGB", (32, 24)).save(photo, "PNG")
    upload = Upload(photo.getvalue(), ("circle",))

    async def story() -> None:
        replica = PredictorReplica(ServeConfig(), None)
        await replica.reconfigure({"checkpoint": str(runs["first"])})
        assert isinstance(await replica.answer(upload), dict)
        replica.check_health()
        monkeypatch.setattr(kind, "ask" if kind is MllmPrior else "forward", _device_fails)
        with pytest.raises(DeviceFailed, match="device of the .* failed: CUDA error: an illegal memory access"):
            await replica.answer(upload)
        with pytest.raises(DeviceFailed, match="an illegal memory access .* start again"):
            replica.check_health()

    asyncio.run(story())


@pytest.mark.usefixtures("one_thread")
def test_the_mllms_replica_whose_device_has_failed_tells_serve(
    runs: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        replica = PriorReplica(ServeConfig())
        await replica.reconfigure({"checkpoint": str(runs["first"])})
        fingerprint = (await replica.identity(runs["first"])).fingerprint
        replica.check_health()
        monkeypatch.setattr(MllmPrior, "ask", _device_fails)
        with pytest.raises(DeviceFailed, match="device of the language model failed"):
            await replica.ask([Image.new("RGB", (32, 24))], ["circle"], fingerprint)
        with pytest.raises(DeviceFailed, match="device of the language model failed"):
            replica.check_health()

    asyncio.run(story())


def _device_fails(*_: object, **__: object) -> None:
    raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_a_request_has_as_long_to_be_answered_when_the_server_ends_as_ever() -> None:
    app: Any = build({"settings": {"prior": True, "timeout_s": 90}, "token_sha256": "0" * 64})
    names = []
    while app is not None:
        deployment = app._bound_deployment  # why: only a cluster that runs it says what it was given
        names.append(deployment.name)
        assert deployment._deployment_config.graceful_shutdown_timeout_s > 90  # why: as above
        app = next((one for one in deployment.init_args if isinstance(one, Application)), None)
    assert names == ["Api", "Predictor", "Prior"]
