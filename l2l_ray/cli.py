"""The `l2l` command: one process, no Ray. The same run on a cluster is `ray job submit -- python jobs/selfevolve.py`.

    l2l run [--preset smoke] [--config run.yaml] [--section.field value ...]    the whole method, with LocalRuntime
    l2l config [same words]                                                     the full config as YAML
    l2l report RUN_DIR                                                          write report.html again
    l2l predict IMAGE EXPRESSION --run RUN_DIR [--out FOLDER]                   mask, overlay and figures of one image

Every import that takes time is inside the command that needs it, so that help and mistakes answer at once.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after `l2l`; None = those of this process.
    Returns:
        Exit status: 0 fine, 1 an error named on stderr, 2 wrong usage.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["--version"]:
        from l2l_ray import __version__

        print(__version__)
        return 0
    if not words or words[0] not in COMMANDS:
        asked_for_help = words[:1] in (["-h"], ["--help"])
        print(__doc__, file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    from l2l_ray.errors import L2LError

    # One progress bar per loaded checkpoint would drown the run's own lines; read when transformers is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        COMMANDS[words[0]](words[1:])
    except L2LError as error:
        print(f"l2l {words[0]}: {error}", file=sys.stderr)
        return 1
    return 0


def run(words: Sequence[str]) -> None:
    """Run the whole method in this process and print where the report is."""
    from l2l_ray.config import load_config

    config = load_config(words)
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("l2l_ray").setLevel(logging.INFO)
    from l2l_ray.loop.runtime import run_local

    print(f"run folder: {config.run_dir}", flush=True)
    print(f"report: {run_local(config).path / 'report.html'}")


def config(words: Sequence[str]) -> None:
    """Print the config that these words mean, every field of it."""
    from l2l_ray.config import config_yaml, load_config

    print(config_yaml(load_config(words)), end="")


def report(words: Sequence[str]) -> None:
    """Write the report of a run folder again."""
    parser = argparse.ArgumentParser(prog="l2l report", description=report.__doc__)
    parser.add_argument("run_dir", type=Path)
    run_dir = parser.parse_args(words).run_dir
    from l2l_ray.report.page import write_report

    print(f"report: {write_report(run_dir)}")


def predict(words: Sequence[str]) -> None:
    """Segment what an expression refers to, with the best version of a run."""
    parser = argparse.ArgumentParser(prog="l2l predict", description=predict.__doc__)
    parser.add_argument("image", type=Path)
    parser.add_argument("expression")
    parser.add_argument("--run", type=Path, required=True, metavar="RUN_DIR", help="a finished run")
    parser.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="where the three files go")
    given = parser.parse_args(words)
    from l2l_ray.predictor import Predictor

    prediction = Predictor.from_run(given.run).predict(given.image, given.expression)
    for path in prediction.save(given.out):
        print(path)


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "run": run,
    "config": config,
    "report": report,
    "predict": predict,
}


if __name__ == "__main__":
    sys.exit(main())
