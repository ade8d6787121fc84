"""The prior actor as the plain class it is: it answers for the MLLM, and draws where the config says so."""

from __future__ import annotations

import asyncio
from pathlib import Path

from PIL import Image

from l2l_ray.actors.prior_actor import PriorActor
from l2l_ray.config import PriorConfig
from l2l_ray.loop.inference.asking import Question
from l2l_ray.prior.loading import identify_prior
from l2l_ray.prior.reply import MllmIdentity, Reply
from l2l_ray.types import Prior
from tests.tiny_sams import SAMS


def test_one_actor_answers_and_draws(tmp_path: Path) -> None:
    SAMS["sam2"](tmp_path / "sam2")
    config = PriorConfig(proposal="sam", sam_model=str(tmp_path / "sam2"), device="cpu", dtype="float32")
    Image.new("RGB", (64, 48), (200, 40, 40)).save(tmp_path / "a.png")
    boxed = Prior("k", ((0.1, 0.2, 0.5, 0.6),), (1.0,), (), "", 1.0, "", "", source="user")
    asked = Question("a", str(tmp_path / "a.png"), "red circle", 64, 48)
    drawn = Question("b", str(tmp_path / "a.png"), "red circle", 64, 48, boxed)

    async def ask() -> tuple[MllmIdentity, list[Reply]]:
        actor = PriorActor(config, 1, "prior-0", "test")
        return await actor.ready(), await actor.ask([asked, drawn])

    identity, (said, masks) = asyncio.run(ask())
    assert identity == identify_prior(config) and identity.sam
    assert said.texts and not said.masks
    assert len(masks.masks) == len(masks.mask_scores) == 1 and not (masks.texts or masks.failure)
