"""A sweep: Ray Tune over whole L2L runs, priors shared by all trials, a table at the end.

    python jobs/sweep.py label_ratio --preset smoke
    ray job submit -- python jobs/sweep.py reward_weights --samples 8 --asha --loop.rounds 2

The first word names a module of `tune_spaces/`; `--samples N`, `--asha` and `--sweep-name NAME` belong to the sweep,
everything else is as for `selfevolve.py`. The table is also written to `<run root>/<sweep name>/sweep.csv`.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Any

from l2l_ray.config import load_config
from l2l_ray.errors import L2LError, one_line

ROOT = Path(__file__).resolve().parent.parent


def read_space(name: str) -> dict[str, Any]:
    """Return the domains of one module of `tune_spaces/`; importing it imports ray."""
    sys.path.insert(0, str(ROOT))
    space: dict[str, Any] = importlib.import_module(f"tune_spaces.{name}").space()
    return space


def main(words: list[str]) -> int:
    """Run the sweep the command line describes.

    Returns:
        0 when the sweep ended, 1 when it could not, 130 when it was told to stop (Ctrl-C, SIGTERM).
    """
    spaces = sorted(path.stem for path in (ROOT / "tune_spaces").glob("[!_]*.py"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("space", choices=spaces)
    parser.add_argument("--samples", type=int, default=1, help="draws from sampled domains")
    parser.add_argument("--asha", action="store_true", help="stop trials that fall behind")
    parser.add_argument("--sweep-name", help="folder under the run root; default sweep-<space>")
    own, rest = parser.parse_known_args(words)
    try:
        config = load_config(rest, "sweep")
        from l2l_ray.actors.environment import set_environment

        set_environment(config)  # Ray reads its environment when it is imported, which is the next line
        from l2l_ray.actors.tuning import sweep

        name = own.sweep_name or f"sweep-{own.space}"
        table = sweep(config, read_space(own.space), name, own.samples, own.asha)
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        sys.stderr.write("Ray is not installed; `pip install '.[ray]'` brings it, `l2l run` needs none\n")
        return 1
    except (L2LError, OSError) as error:
        sys.stderr.write(f"sweep: {one_line(error)}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("\nstopped; everything finished stays: the same command continues\n")
        return 130
    sys.stdout.write(f"\n{table.to_string(index=False)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
