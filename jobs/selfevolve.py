"""The main job: a whole L2L run on Ray.

    ray job submit -- python jobs/selfevolve.py                       on the running cluster
    python jobs/selfevolve.py --preset smoke                          on a private one for this process
    ... --config run.yaml --selector.reward.coverage 0.2 --resume     `--help` lists every field
"""

from __future__ import annotations

import sys

from l2l_ray.config import load_config
from l2l_ray.errors import L2LError


def main(words: list[str]) -> int:
    """Run the job the command line describes; 0 when it ended, 1 when it could not."""
    try:
        config = load_config(words)
        from l2l_ray.actors import run

        run(config)
    except L2LError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
