"""Who may ask: the token's rules, and what a header must say."""

from __future__ import annotations

import pytest

from l2l_ray.errors import ConfigError
from l2l_ray.serving.access import is_allowed, own_or_new_token, sha256_of


def test_a_token_of_ones_own_is_kept_and_otherwise_a_new_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("L2L_TOKEN", "0123456789abcdef")
    assert own_or_new_token() == ("0123456789abcdef", False)
    monkeypatch.delenv("L2L_TOKEN")
    (one, is_new), (other, _) = own_or_new_token(), own_or_new_token()
    assert is_new and one != other and len(one) >= 32


@pytest.mark.parametrize("token", ["short", "with a space 0123456", "ümlaut-0123456789ab", "line\n0123456789abcdef"])
def test_a_token_that_can_be_guessed_or_that_no_header_carries_is_refused(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("L2L_TOKEN", token)
    with pytest.raises(ConfigError, match="at least 16 printable ASCII characters without spaces, got"):
        own_or_new_token()


@pytest.mark.parametrize(
    ("header", "allowed"),
    [
        (b"Bearer 0123456789abcdef", True),
        (b"bearer  0123456789abcdef", True),
        (b"Bearer 0123456789abcdeF", False),
        (b"Bearer 0123456789abcde", False),
        (b"Bearer ", False),
        (b"0123456789abcdef", False),
        (b"Basic 0123456789abcdef", False),
        (b"Bearer \xff\xfe", False),
        (b"", False),
        (None, False),
    ],
)
def test_the_header_must_carry_the_whole_token(header: bytes | None, allowed: bool) -> None:
    assert is_allowed(header, sha256_of("0123456789abcdef")) is allowed
