"""From the config's prior section to whoever answers: a server, a model that writes, or a detector, by `model_type`.

Beside it SAM, where proposals are its masks. SAM always runs in the process that asks, also where the MLLM is behind a
server.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

from transformers import AutoConfig

from l2l_ray.checkpoints import checkpoint
from l2l_ray.config import PriorConfig
from l2l_ray.device import named_device
from l2l_ray.errors import ConfigError
from l2l_ray.prior.detector import DetectorPrior
from l2l_ray.prior.http import HttpPrior
from l2l_ray.prior.identity import EXPECTED, identity_of, sam_fingerprint, source_of
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.prompt import family_of
from l2l_ray.prior.reply import MaskModel, MllmIdentity, PictureMllm
from l2l_ray.prior.sam import EXPECTED as EXPECTED_SAM
from l2l_ray.prior.sam import Sam


def load_prior(config: PriorConfig) -> PictureMllm:
    """Load the config's model onto its device, or find it behind its server.

    Raises:
        ConfigError: The server does not answer as it should, there is no such checkpoint, it is of another kind, or its
            format is unknown; or its answers are in pixels that it cannot know.
    """
    _require_known_pixels(config)
    if config.url is not None:
        return HttpPrior.load(config)
    family = family_of(_model_config(config).model_type)
    return (DetectorPrior if family is not None and family.is_detector else MllmPrior).load(config)


class PriorModels:
    """The models behind a prior, each loaded when it is first needed: the MLLM, and SAM where it draws the masks.

    Example: `PriorModels(config).mllm.ask([image], ["left man"])`

    Args:
        config: The prior section.
        mllm: Who answers for the MLLM; None = it is loaded here, or found behind its server.
        sam: Who answers for SAM; None = it is loaded here.
    """

    def __init__(self, config: PriorConfig, mllm: PictureMllm | None = None, sam: MaskModel | None = None) -> None:
        self.config = config
        self._mllm, self._sam = mllm, sam

    @cached_property
    def mllm(self) -> PictureMllm:
        """The MLLM.

        Raises:
            ConfigError: As `load_prior`.
        """
        return self._mllm or load_prior(self.config)

    @cached_property
    def sam(self) -> MaskModel:
        """SAM.

        Raises:
            ConfigError: As `Sam.load`.
        """
        return self._sam or Sam.load(self.config)

    @cached_property
    def sam_identity(self) -> str:
        """Hash of everything that a mask of SAM depends on besides the prior; empty where no masks are drawn.

        Raises:
            ConfigError: As `identify_sam`.
        """
        return identify_sam(self.config)

    @property
    def draws(self) -> bool:
        """Whether priors get masks."""
        return self.config.proposal == "sam"

    def load(self) -> None:
        """Load all that the config asks for now.

        Raises:
            ConfigError: As of the models.
        """
        _ = self.mllm, self.sam if self.draws else None
        if self._sam is None:
            _ = self.sam_identity  # of the files that were loaded: others may take their place later

    def changed_to(self, config: PriorConfig) -> PriorModels:
        """Return the models of another config: those of these that answer the same, so that nothing is loaded twice.

        Args:
            config: The other prior section. A server's models are found anew, and those of another device loaded.
        Raises:
            ConfigError: As `identify_prior`.
        """
        if named_device(config.device) != named_device(self.config.device):
            return PriorModels(config)
        wanted = identify_prior(config)
        is_same = config.url is None and wanted.fingerprint == self.mllm.fingerprint
        draws_same = wanted.sam != "" and wanted.sam == self.sam_identity
        models = PriorModels(config, self.mllm if is_same else None, self.sam if draws_same else None)
        if draws_same:
            models.sam_identity = wanted.sam
        return models

    def identity(self) -> MllmIdentity:
        """Return who they are; the MLLM is loaded for it.

        Raises:
            ConfigError: As of the models.
        """
        return MllmIdentity(self.mllm.fingerprint, self.mllm.prompt, self.sam_identity)


def identify_prior(config: PriorConfig) -> MllmIdentity:
    """Return the identity of the models that the config asks for, without loading weights.

    Raises:
        ConfigError: As of `load_prior`, or SAM cannot be found.
    """
    _require_known_pixels(config)
    sam = identify_sam(config)
    if config.url is not None:
        served = HttpPrior.load(config)
        return MllmIdentity(served.fingerprint, served.prompt, sam)
    return replace(identity_of(config, source_of(config), _model_config(config)), sam=sam)


def identify_sam(config: PriorConfig) -> str:
    """Return the hash of everything that a mask depends on besides the prior; empty where no masks are drawn.

    Raises:
        ConfigError: SAM cannot be found.
    """
    if config.proposal != "sam" or config.sam_model is None:
        return ""
    with checkpoint("prior.sam_model", config.sam_model, EXPECTED_SAM) as options:
        return sam_fingerprint(config, config.sam_model, AutoConfig.from_pretrained(config.sam_model, **options))


def _require_known_pixels(config: PriorConfig) -> None:
    """Refuse answers in pixels of a photo that the model gets in another size."""
    if config.coordinates == "photo-pixels" and config.resizes_photos:
        why = "prior.url is set, and a server is sent" if config.url else "prior.min_image_tokens is set, which makes"
        remedy = "" if config.url else ", or prior.min_image_tokens to 0"
        raise ConfigError(
            f"prior.coordinates is 'photo-pixels', but {why} resized photos, so that the model knows no pixels of the "
            f"photo itself; set prior.coordinates to 'pixels', which are those of the picture it got{remedy}"
        )


def _model_config(config: PriorConfig) -> Any:
    source = source_of(config)
    with checkpoint("prior.model", source, EXPECTED) as options:
        return AutoConfig.from_pretrained(source, **options)
