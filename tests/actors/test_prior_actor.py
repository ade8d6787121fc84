"""The prior actor as the plain class it is: it answers for the MLLM, and draws where the config says so."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image
from ray.util.metrics import Gauge

from l2l_ray.actors import prior_actor
from l2l_ray.actors.prior_actor import PriorActor
from l2l_ray.config import PriorConfig
from l2l_ray.loop.inference.asking import Question
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.reply import MllmIdentity, Reply
from l2l_ray.types import Prior
from tests.tiny_sams import SAMS


def test_the_last_batch_is_shown_again_and_again_while_the_model_works_at_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prior_actor, "REPORT_EVERY_S", 0.05)
    shown, set_gauge = Counter[str](), Gauge.set

    def count(gauge: Gauge, value: float, tags: dict[str, str]) -> None:
        shown[gauge.info["name"]] += 1
        set_gauge(gauge, value, tags)

    monkeypatch.setattr(Gauge, "set", count)
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "a.png")

    async def ask_once() -> None:
        actor = PriorActor(PriorConfig(device="cpu", dtype="float32"), 1, "prior-0", "test")
        await actor.ask([Question("a", str(tmp_path / "a.png"), "red circle", 64, 48)])
        await asyncio.sleep(1.0)

    asyncio.run(ask_once())
    assert shown["l2l_prior_batch"] > 2


def test_one_actor_answers_and_draws(tmp_path: Path) -> None:
    SAMS["sam2"](tmp_path / "sam2")
    config = PriorConfig(proposal="sam", sam_model=str(tmp_path / "sam2"), device="cpu", dtype="float32")
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "a.png")
    boxed = Prior("k", ((0.1, 0.2, 0.5, 0.6),), (1.0,), (), "", 1.0, "", "", source="user")
    asked = Question("a", str(tmp_path / "a.png"), "red circle", 64, 48)
    drawn = Question("b", str(tmp_path / "a.png"), "red circle", 64, 48, boxed)

    async def ask() -> tuple[MllmIdentity, list[Reply]]:
        actor = PriorActor(config, 1, "prior-0", "test")
        logging.getLogger("l2l_ray.prior").warning("strange")
        replies, identity, notes = await actor.ask([asked, drawn])
        assert notes == ["strange"], "for a driver to say"
        return await actor.ready(), replies

    identity, (said, masks) = asyncio.run(ask())
    assert identity == identify_prior(config) and identity.sam
    assert said.texts and not said.masks
    assert len(masks.masks) == len(masks.mask_scores) == 1 and not (masks.texts or masks.failure)
