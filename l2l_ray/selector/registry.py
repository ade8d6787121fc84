"""Every selector there is, in one list: its name, what people call it, its class, and what the loop must know of it.

Whoever lists, checks, labels or draws selectors reads this list, so a new one is one entry (docs/add_a_selector.md).
It imports no torch: the config checks names against it, and classes are imported when one is made.

A *method* is what `selector.name` and `compare` hold: the name of a selector, for one with a `setting` also
its value, as `fixed_threshold@0.8`, or `module:name` for one that somebody wrote in a module of their own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from l2l_ray.errors import ConfigError, L2LError, one_line

PRIOR_ONLY = "prior_only"  # the zero-shot row of every table: the prior's mask itself; nobody can choose it


class SelectorNotFound(ConfigError):
    """The module of somebody's own selector cannot be imported here."""


@dataclass(frozen=True)
class SelectorSpec:
    """What the program knows of one selector without importing it.

    Args:
        name: What `selector.name` says. One of your own is named `module:name`, after the module that registers it.
        label: Its name in tables and figures.
        make: Its class, as `file:Class` of this folder; or anything that makes a selector from the selector section.
        style: Colour and matplotlib marker of its curves; None = drawn in one of the spare styles.
        learns: Whether it looks at labeled images (`update`, `settle`); only for such are fold teachers trained, which
            cross-fitting needs.
        labels: Whether it labels anything; False = training uses the labeled images alone.
        online: Whether it decides inside training, at every step, on labels of the teacher as it is then
            (`loop/training/online.py`); False = a round's labels are made and stored before it.
        setting: Field of the selector section that `name@value` sets; None = it takes no value.
        reads: Fields of the selector section that have an effect on it; None = any may.

    Example: `spec_of("fixed_threshold@0.8").setting` is `"threshold"`.
    """

    name: str
    label: str
    make: str | Callable[..., Any]
    style: tuple[str, str] | None = None
    learns: bool = False
    labels: bool = True
    online: bool = False
    setting: str | None = None
    reads: tuple[str, ...] | None = None


_SETTLED = ("num_folds", "max_unlabeled")
_SCORER = (
    *(*_SETTLED, "lr", "warmup_updates", "round_updates", "update_batch", "hidden", "gate", "candidates"),
    *("rivals", "cells", "reward.gate_margin", "reward.wrong_cost"),
)
_L2L = (*_SCORER, "group_size", "reward.unlabeled")
# Colours are mid-tones: each is at least 2.8:1 against white and against the dark page.
# fmt: off
_BUILT_IN = (
    SelectorSpec("l2l", "L2L (RPLE)", "rple:Rple", ("#e4572e", "o"), learns=True, reads=_L2L),
    SelectorSpec("supervised", "supervised, with guidance", "rules:Supervised", ("#7f8c9b", "s"), labels=False,
                 reads=()),
    SelectorSpec("accept_all", "accept all", "rules:AcceptAll", ("#a06cd5", "^"), reads=()),
    SelectorSpec("fixed_threshold", "fixed threshold", "rules:FixedThreshold", ("#2e86de", "D"), setting="threshold",
                 reads=("threshold",)),
    SelectorSpec("online", "weak to strong, every step", "rules:FixedThreshold", online=True, setting="threshold",
                 reads=("threshold",)),
    SelectorSpec("adaptive_threshold", "adaptive thresholds", "adaptive:AdaptiveThreshold", learns=True,
                 reads=_SETTLED),
    SelectorSpec("pwa", "SemiRES pixel weights", "rules:PixelWeightAdjustment", ("#139a80", "v"), reads=()),
    SelectorSpec("matching", "SemiRES matching", "rules:Matching", ("#b8901c", "P"), reads=("match_iou",)),
    SelectorSpec("agreement", "prior and teacher agree", "rules:Agreement", ("#d6579b", "X"), reads=("match_iou",)),
    SelectorSpec("prior_label", "prior's mask as label", "rules:PriorLabel", reads=()),
    SelectorSpec("random_gate", "random gate", "rules:RandomGate", setting="rate", reads=("rate",)),
    SelectorSpec("confidence_gate", "confidence gate", "adaptive:ConfidenceGate", learns=True,
                 reads=(*_SETTLED, "reward.gate_margin")),
    SelectorSpec("scorer", "supervised scorer", "scorer:Scorer", ("#5b9a3c", "<"), learns=True, reads=_SCORER),
)
# fmt: on
_SPECS = {spec.name: spec for spec in _BUILT_IN}
_PRIOR_ONLY_LABEL, _PRIOR_ONLY_STYLE = "prior only (zero-shot)", ("#8d6e63", "*")


def register(spec: SelectorSpec) -> None:
    """Add a selector; a module of your own calls this when it is imported.

    Raises:
        ConfigError: The name is taken, or is not made of letters, digits and underscores.
    """
    if not re.fullmatch(r"(\w[\w.]*:)?\w+", spec.name):
        raise ConfigError(
            f"a selector's name is letters, digits and underscores, after the name of its module and a colon; got "
            f"{spec.name!r}; write e.g. 'my_rules:mean_certainty'"
        )
    if spec.name in (*_SPECS, PRIOR_ONLY):
        raise ConfigError(f"a selector called {spec.name!r} is registered already; give yours another name")
    _SPECS[spec.name] = spec


def selectors() -> tuple[SelectorSpec, ...]:
    """Return the built-in ones, in order; somebody's own is found by its name alone, so this is the same everywhere."""
    return _BUILT_IN


def spec_of(method: str) -> SelectorSpec:
    """Return the spec of a method, importing the module of one that is somebody's own.

    Raises:
        ConfigError: There is no such selector, its module cannot be imported, or it takes no value.
    """
    name, at, value = method.partition("@")
    if name not in _SPECS and ":" in name:
        _import_own(name)
    if name not in _SPECS:
        raise ConfigError(
            f"there is no selector {name!r}; choose one of {', '.join(map(repr, _SPECS))}, or 'module:name' for one of "
            "your own, see docs/add_a_selector.md"
        )
    spec = _SPECS[name]
    if at and not spec.setting:
        raise ConfigError(f"selector {name!r} takes no value, got {method!r}; write {name!r}")
    if at and not value:
        raise ConfigError(f"{method!r} needs its {spec.setting} after the '@', got nothing; write e.g. '{name}@0.8'")
    return spec


def _import_own(name: str) -> None:
    module = name.rpartition(":")[0]
    try:
        import_module(module)
    except L2LError:  # `register` says what is wrong itself
        raise
    except (ImportError, TypeError, ValueError) as error:  # the last two: the module's name is none, as in ".mine"
        raise SelectorNotFound(
            f"selector {name!r}: module {module!r} cannot be imported: {error}; put its folder on PYTHONPATH, on every "
            "machine of the run"
        ) from error
    except Exception as error:  # whatever somebody's own code does when it is imported
        raise SelectorNotFound(
            f"selector {name!r}: importing module {module!r} ended with {type(error).__name__}: {one_line(error)}; "
            f"correct it, `python -c 'import {module}'` shows where"
        ) from error
    if name not in _SPECS:
        raise ConfigError(
            f"selector {name!r}: module {module!r} does not register it; call register(SelectorSpec({name!r}, ...)) in "
            "it, see docs/add_a_selector.md"
        )


def makes_labels(method: str) -> bool:
    """Return whether there are pseudo-labels of a method."""
    return method != PRIOR_ONLY and spec_of(method).labels


def stores_labels(method: str) -> bool:
    """Return whether the pseudo-labels of a method are made in shards before each round, and kept."""
    return makes_labels(method) and not spec_of(method).online


def label_of(method: str) -> str:
    """Return the name of a method as tables print it."""
    if method == PRIOR_ONLY:
        return _PRIOR_ONLY_LABEL
    value = method.partition("@")[2]
    return spec_of(method).label + (f" {value}" if value else "")


def style_of(method: str) -> tuple[str, str] | None:
    """Return colour and marker of a method's curves; None where it has none of its own. Imports nothing."""
    if method == PRIOR_ONLY:
        return _PRIOR_ONLY_STYLE
    return _SPECS[method].style if method in _SPECS else None
