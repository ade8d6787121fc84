"""The MLLM and SAM of a server that has them in a deployment of their own, as its predictors ask them.

The replica there lets what fails in a batch fail alone. So here a batch without an answer fails as a whole: in halves
it would be asked, and waited for, again and again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from ray.exceptions import RayError, RayTaskError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from l2l_ray.actors.cluster import own_error
from l2l_ray.errors import one_line
from l2l_ray.loop.inference.asking import MLLM, SAM, Who
from l2l_ray.prior.prompt import PromptFormat
from l2l_ray.prior.reply import MllmIdentity, Reply
from l2l_ray.types import Prior

logger = logging.getLogger(__name__)


class RemoteMllm:
    """The MLLM, and SAM, behind their deployment; for threads, not for an event loop.

    Args:
        prior: Of `PriorReplica`.
        checkpoint: Whose MLLM it must be.
        time_left_s: Returns how long an answer is still of use, seconds; nothing is asked where that is not above 0.
    Raises:
        OtherMllm: It is another one.
    """

    def __init__(self, prior: DeploymentHandle[Any], checkpoint: Path, time_left_s: Callable[[], float]) -> None:
        self._prior, self._time_left_s = prior, time_left_s
        try:
            self._identity: MllmIdentity = prior.identity.remote(checkpoint).result()
        except RayTaskError as error:
            raise own_error(error) from None

    @property
    def fingerprint(self) -> str:
        """Hash of everything a reply depends on."""
        return self._identity.fingerprint

    @property
    def prompt(self) -> PromptFormat:
        """Format of the answer."""
        return self._identity.prompt

    def ask(self, images: Sequence[Image.Image], expressions: Sequence[str]) -> list[Reply]:
        """Return one reply per picture and expression; failed ones where none came in time, or the replica failed."""
        return self._replies(MLLM, self._prior.ask, list(images), list(expressions), self.fingerprint)

    def draw(self, images: Sequence[Image.Image], priors: Sequence[Prior]) -> list[Reply]:
        """Return the masks of one prior per picture; failed replies as in `ask`."""
        return self._replies(SAM, self._prior.draw, list(images), list(priors), self._identity.sam)

    def _replies(self, who: Who, method: Any, images: list[Image.Image], *asked: Any) -> list[Reply]:
        left_s = self._time_left_s()
        failed = Reply.failed("hung", f"{who.words} gave no answer in the {max(left_s, 0):.1f} s that were left")
        if left_s > 0:
            response = method.remote(images, *asked)
            try:
                replies: list[Reply] = response.result(timeout_s=left_s)
                return replies
            except TimeoutError:
                response.cancel()  # else it would be worked on before what is asked next
            except (RayError, RayServeException) as error:
                cause = error.cause if isinstance(error, RayTaskError) else error
                failed = Reply.failed(who.failure, f"{type(cause).__name__}: {one_line(cause)}")
        logger.warning("%d questions have no answer: %s", len(images), failed.failure)
        return [failed] * len(images)
