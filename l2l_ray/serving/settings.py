"""The settings of a server, and how they are read from the command line and from a file.

They belong to no run, so they are no section of `RunConfig`. The command line and the YAML file come from the same
model; a field on the command line wins.
"""

from __future__ import annotations

import argparse
import ipaddress
import re
import socket
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from l2l_ray.config.fields import Section, config_fields, range_text
from l2l_ray.config.messages import explain
from l2l_ray.config.plain_yaml import parse_yaml
from l2l_ray.config.sections import Resources
from l2l_ray.errors import ConfigError
from l2l_ray.storage import here

LOOPBACK = "127.0.0.1"
_PORTS = {"http": 80, "https": 443}  # which no browser writes


def is_wildcard(host: str) -> bool:
    """Return whether a host is every network of the machine: what a server listens on, and nobody's address.

    Example: `0.0.0.0`, `0`, `0x0` and `::` are
    """
    with suppress(OSError):
        return not any(socket.inet_aton(host))  # as the system reads it: parts may be left out
    with suppress(ValueError):
        address = ipaddress.IPv6Address(host.strip("[]"))
        return (address.ipv4_mapped or address).is_unspecified
    return not host


def is_loopback(host: str) -> bool:
    """Return whether a host is reached from this machine alone, as `127.0.0.1`, `::1` and `localhost` are."""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def origin_of(address: str) -> str:
    """Return an address as browsers name it in `Origin`: in small letters, without the scheme's own port.

    Raises:
        ValueError: It is none, or more than scheme, name and port.
    Example: `origin_of("https://Serve.example.org:443/")` is `https://serve.example.org`
    """
    try:
        parts = urlsplit(address)
        name, port = parts.hostname or "", parts.port
    except ValueError:
        parts, name, port = urlsplit(""), "", None
    if not name.isascii():
        raise ValueError(f"must have its name in punycode, such as https://xn--bcher-kva.example, got {address!r}")
    is_more = parts.path not in ("", "/") or parts.query or parts.fragment or "@" in parts.netloc
    if parts.scheme not in _PORTS or is_more or not re.fullmatch(r"[a-z0-9._:-]+", name):
        raise ValueError(
            f"must be scheme, name and port, such as https://serve.example.org or http://node7:8000, got {address!r}; "
            "leave the rest out"
        )
    shown = f"[{name}]" if ":" in name else name
    return f"{parts.scheme}://{shown}" + ("" if port in (None, _PORTS[parts.scheme]) else f":{port}")


Origin = Annotated[str, AfterValidator(origin_of)]
TokenHash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # of `access.sha256_of`


class ServeConfig(Section):
    """What a server listens on, how large it is, and what it refuses. All defaults are ours."""

    host: str = Field(LOOPBACK, description="Address to listen on; 0.0.0.0 = every network of the machine")
    port: int = Field(8000, ge=1, le=65535, description="Port to listen on")
    replicas: int = Field(1, ge=1, description="Least number of predictor replicas; each holds the whole model")
    max_replicas: int = Field(1, ge=1, description="Most replicas; more than `replicas` = as many as the load needs")
    replica_resources: Resources = Field({"CPU": 0.5}, description="Ray resources of one predictor replica")
    threads: int = Field(1, ge=1, description="torch threads of one replica")
    prior: bool = Field(
        False,
        description="Whether the MLLM has a deployment of its own, which all predictor replicas ask; else each replica "
        "holds one. The answers are the same",
    )
    prior_resources: Resources = Field({"CPU": 0.5}, description="Ray resources of the MLLM's own replica")
    review: bool = Field(
        False, description="Whether the review page of the run is served too, under /review/; see docs/review.md"
    )
    review_resources: Resources = Field({"CPU": 0.5}, description="Ray resources of the review page's one replica")
    public_url: Origin | None = Field(
        None,
        description="Address under which people open the server where it is another than host and port: that of a "
        "proxy, https://serve.example.org, or http://node7:8000. The review page answers it and loopback alone",
    )
    max_batch: int = Field(8, ge=1, description="Most requests that a replica answers together")
    batch_wait_s: float = Field(0.01, ge=0, description="How long a first request waits for others, seconds")
    max_queued: int = Field(32, ge=1, description="Most requests that wait for a replica; more are told to come back")
    max_body_mb: float = Field(20, gt=0, description="Largest request, MB of 10^6 bytes")
    max_megapixels: float = Field(25, gt=0, description="Largest picture, million pixels, told before it is decoded")
    max_text_chars: int = Field(500, ge=1, description="Longest expression, characters")
    max_expressions: int = Field(16, ge=1, description="Most expressions in a request")
    timeout_s: float = Field(
        60, gt=0, description="Longest time from the first byte of a request to its answer, seconds"
    )

    @model_validator(mode="after")
    def _grows(self) -> ServeConfig:
        if self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas must be at least replicas={self.replicas}, got {self.max_replicas}; raise it"
            )
        return self

    @model_validator(mode="after")
    def _is_found(self) -> ServeConfig:
        if self.review and is_wildcard(self.host) and self.public_url is None:
            raise ValueError(
                f"review with host {self.host!r} needs public_url, the address under which people open it, such as "
                f"http://node7:{self.port}, got none; give it, or leave out host"
            )
        return self

    @property
    def url(self) -> str:
        """Where people are sent."""
        return self.public_url or self._at(self.host)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Under which the server may be opened in a browser, as `Origin` says them."""
        names = [LOOPBACK, "localhost", *([] if is_wildcard(self.host) else [self.host])]
        own = [origin_of(self._at(name)) for name in names]
        return tuple(dict.fromkeys([*own, *([self.public_url] if self.public_url else [])]))

    def _at(self, name: str) -> str:
        return f"http://{f'[{name}]' if ':' in name else name}:{self.port}"

    @property
    def max_ongoing(self) -> int:
        """Requests that one replica holds: a batch in work, and the next one; each with its picture decoded."""
        return 2 * self.max_batch

    @property
    def max_open(self) -> int:
        """Requests that are open at once, in work or waiting; it bounds the memory of what they sent."""
        return self.max_queued + self.max_replicas * self.max_ongoing


class BuildArgs(BaseModel):
    """What `actors/deployments.py::build` is told.

    Args:
        settings: Limits and sizes.
        token_sha256: Hash of the bearer token, `printf %s "$L2L_TOKEN" | sha256sum`: 64 lower-case hex digits.
    """

    # Who gives the token itself in its place must not find it in a log.
    model_config = ConfigDict(hide_input_in_errors=True)

    settings: ServeConfig = ServeConfig()
    token_sha256: TokenHash


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--settings FILE` and one option per field."""
    parser.add_argument("--settings", type=here, metavar="FILE", help="YAML file of the settings below")
    for field in config_fields(ServeConfig):
        allowed = range_text(field.info)
        says = f"{field.info.description} (default {field.info.default}{f'; {allowed}' if allowed else ''})"
        option = f"--{field.path}"
        if field.info.annotation is bool:
            parser.add_argument(option, action=argparse.BooleanOptionalAction, help=says.replace("%", "%%"))
        else:
            parser.add_argument(option, metavar="X", help=says.replace("%", "%%"))


def read_settings(given: argparse.Namespace) -> ServeConfig:
    """Return the settings that the options of `add_options` mean.

    Raises:
        ConfigError: A file cannot be read, a field is unknown, or a value does not fit.
    """
    values: dict[str, Any] = {} if given.settings is None else _read_file(given.settings)
    for field in config_fields(ServeConfig):
        if (word := getattr(given, field.path)) is not None:
            values[field.path] = _value(field.path, word)
    try:
        return ServeConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, ServeConfig)) from None


def _value(name: str, word: Any) -> Any:
    """Return what a word of the command line means: `{"GPU": 1}` is a mapping; numbers are read by the model."""
    if not name.endswith("_resources"):
        return word
    try:
        return parse_yaml(word)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(f"{name} cannot be {word}: {error.problem}") from None
    except yaml.YAMLError:
        return word  # the model refuses it, with the field's name


def _read_file(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"settings file {path} cannot be read: {error.strerror}; check the path") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"settings file {path} is no YAML: {' '.join(str(error).split())}; correct it") from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"settings file {path} must hold a mapping of fields, got {type(content).__name__}; see --help"
        )
    return content
