"""Who may ask: a bearer token, of which the server keeps a hash only."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets

from l2l_ray.errors import ConfigError

TOKEN_VARIABLE = "L2L_TOKEN"
MIN_TOKEN_CHARS = 16  # a shorter one can be guessed


def own_or_new_token() -> tuple[str, bool]:
    """Return the token of the environment, or a new one, and whether it is new.

    Raises:
        ConfigError: The variable holds something that can be guessed, or that no header can carry.
    """
    token = os.environ.get(TOKEN_VARIABLE)
    if not token:
        return secrets.token_urlsafe(24), True
    if len(token) < MIN_TOKEN_CHARS or not token.isascii() or any(c.isspace() or not c.isprintable() for c in token):
        raise ConfigError(
            f"{TOKEN_VARIABLE} must have at least {MIN_TOKEN_CHARS} printable ASCII characters without spaces, got "
            f"{len(token)} characters; unset it, and one is made"
        )
    return token, False


def sha256_of(token: str) -> str:
    """Return what a server keeps of a token."""
    return hashlib.sha256(token.encode()).hexdigest()


def is_allowed(authorization: bytes | None, token_sha256: str) -> bool:
    """Tell whether an `Authorization` header carries the token; takes as long for every wrong one.

    Args:
        authorization: The header, `Bearer TOKEN`; None = there is none.
        token_sha256: From `sha256_of`.
    """
    scheme, _, token = (authorization or b"").partition(b" ")
    found = hashlib.sha256(token.strip()).hexdigest()
    return hmac.compare_digest(found, token_sha256) and scheme.lower() == b"bearer"
