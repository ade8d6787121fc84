"""From the config's prior section to whoever answers: a server, a model that writes, or a detector, by `model_type`."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from l2l_ray.checkpoints import checkpoint
from l2l_ray.config import PriorConfig
from l2l_ray.prior.detector import DetectorPrior
from l2l_ray.prior.http import HttpPrior
from l2l_ray.prior.identity import EXPECTED, identity_of, source_of
from l2l_ray.prior.mllm import MllmPrior
from l2l_ray.prior.prompt import family_of
from l2l_ray.prior.reply import MllmIdentity, PictureMllm


def load_prior(config: PriorConfig) -> PictureMllm:
    """Load the config's model onto its device, or find it behind its server.

    Raises:
        ConfigError: The server does not answer as it should, there is no such checkpoint, it is of another kind, or its
            format is unknown.
    """
    if config.url is not None:
        return HttpPrior.load(config)
    family = family_of(_model_config(config).model_type)
    return (DetectorPrior if family is not None and family.is_detector else MllmPrior).load(config)


def identify_prior(config: PriorConfig) -> MllmIdentity:
    """Return the identity that `load_prior` would give, without loading weights.

    Raises:
        ConfigError: As of `load_prior`.
    """
    if config.url is not None:
        return MllmIdentity.of(HttpPrior.load(config))
    return identity_of(config, source_of(config), _model_config(config))


def _model_config(config: PriorConfig) -> Any:
    source = source_of(config)
    with checkpoint("prior.model", source, EXPECTED) as options:
        return AutoConfig.from_pretrained(source, **options)
