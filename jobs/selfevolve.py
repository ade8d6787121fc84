"""The main job: a whole L2L run on Ray.

On the running cluster, on a private one for this process, and with fields changed (`--help`, `--help-all`):

    ray job submit -- python jobs/selfevolve.py
    python jobs/selfevolve.py --preset smoke
    python jobs/selfevolve.py --config run.yaml --selector.reward.unlabeled 0.2 --resume

Whole configs first: `--preset NAME` (default embedded), then `--config FILE`, then single fields.
"""

from __future__ import annotations

import sys

from l2l_ray.config import load_config
from l2l_ray.job import run_job


def main(words: list[str]) -> int:
    """Run the job the command line describes.

    Returns:
        0 when the run ended, 1 when it could not, 130 when it was told to stop (Ctrl-C, SIGTERM, SIGHUP).
    """

    def act() -> None:
        config = load_config(words, "job")
        from l2l_ray.actors.environment import set_environment

        set_environment(config)  # Ray reads its environment when it is imported, which is the next line
        from l2l_ray.actors.driver import run

        run(config)

    stopped = "everything committed stays: the same command with --resume continues"
    return run_job("selfevolve", act, stopped, ", `l2l run` needs none")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
