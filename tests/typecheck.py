"""How strictly signatures are checked while tests run: an int may stand for a float, as for type checkers."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
