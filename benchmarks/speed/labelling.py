"""(e) Labelling: texts per second, and where the time goes: networks, reading inputs, deciding, writing.

A run of the demo's size with few texts and steps is trained in a temporary folder first; what its networks have learned
does not matter. Then some shards are labeled as a labeler does it, selector L2L: three predictions of the teacher, and
one for each rival outside the batch. Times are those of Python's own profiler; on a GPU, whose work goes on while
Python does, only the rate says something.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import tempfile
from collections import defaultdict
from typing import Any

from benchmarks.speed.setup import Setup
from l2l_ray.config import load_config
from l2l_ray.loop.inference.engine import InferenceEngine
from l2l_ray.loop.local import run_local
from l2l_ray.loop.state.ledger import Attempt

# Stage -> functions whose time it is, with all that they call; no two call each other.
STAGES = {
    "networks": ("segmenter/model.py:encode", "segmenter/model.py:decode"),
    "inputs": ("loop/inference/inputs.py:inputs",),
    "deciding": ("selector/base.py:select", "selector/candidates.py:rival_ious"),
    "writing": ("loop/state/ledger.py:write_shard",),
}
_SHORT = {
    "compare": "[]",
    "data.num_train_refs": 400,
    "data.num_eval_refs": 12,
    "data.benchmark_frac": 0.2,
    "loop.shard_size": 128,
    "loop.rounds": 1,
    "loop.burn_in_steps": 2,
    "loop.fold_steps": 2,
    "loop.round_steps": 2,
    "selector.warmup_updates": 2,
}


def measure(setup: Setup) -> dict[str, Any]:
    """Return rates, and the share of the time that each stage takes."""
    rates, shares = [], defaultdict(list)
    with tempfile.TemporaryDirectory() as root:
        words = [word for field, value in _SHORT.items() for word in (f"--{field}", str(value))]
        config = load_config(["--run_root", root, "--name", "labelling", *words])
        engine = InferenceEngine(config, run_local(config).path, str(setup.device))
        engine.label("l2l", 0, 0, 0, attempt=Attempt(1))  # loads the networks
        for turn in range(setup.repeats):
            profile = cProfile.Profile()
            entry = profile.runcall(engine.label, "l2l", 0, turn % 2, 0, attempt=Attempt(turn + 2))
            stats = pstats.Stats(profile)
            rates.append(entry.num / entry.seconds)
            for stage, functions in STAGES.items():
                shares[stage].append(_seconds(stats, functions) / entry.seconds)
            shares["the rest"].append(1 - sum(shares[stage][-1] for stage in STAGES))
    return {
        "texts_per_s": statistics.median(rates),
        "image_size": config.segmenter.image_size,
        "batch": config.loop.eval_batch,
        "share_of_time": {stage: statistics.median(found) for stage, found in shares.items()},
    }


def _seconds(stats: pstats.Stats, functions: tuple[str, ...]) -> float:
    """Return the time of some functions, with all that they called."""
    return sum(
        found[3]
        for (file, _, name), found in stats.stats.items()  # type: ignore[attr-defined]
        if any(f"{file}:{name}".endswith(function) for function in functions)
    )
