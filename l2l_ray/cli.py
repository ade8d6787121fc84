"""The `l2l` command: one process, no Ray. The same run on a cluster is `ray job submit -- python jobs/selfevolve.py`.

    l2l run [--preset smoke] [--config run.yaml] [--section.field value ...]    the whole method, in this process
    l2l config [same options]                                                   the full config as YAML
    l2l report RUN_DIR                                                          write report.html again
    l2l predict IMAGE EXPRESSION --run RUN_DIR [--out FOLDER]                   mask, overlay and figures of one image
    l2l evaluate RUN_DIR [--split testA] [--protocol lavt480]                   its figures again, also as others count
    l2l data import|check|stats|split|leaks ...                                 own and published data: see docs/data.md
    l2l export RUN_DIR --format coco --out FOLDER [--split val]                 pseudo-labels or predictions as files

RUN_DIR is the folder that `l2l run` prints first. Each command's --help lists its options.
"""

# Every import that takes time is inside the command that needs it, so that help and mistakes answer at once.

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
        if words and not asked_for_help:
            print(f"l2l: there is no command {words[0]!r}; these there are:\n", file=sys.stderr)
        print(__doc__, file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    from l2l_ray.errors import L2LError

    # One progress bar per loaded checkpoint would drown the run's own lines; read when transformers is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        status = COMMANDS[words[0]](words[1:])
    except L2LError as error:
        print(f"l2l {words[0]}: {error}", file=sys.stderr)
        return 1
    return status or 0


def run(words: Sequence[str]) -> None:
    """Run the whole method in this process and print where the report is."""
    from l2l_ray.config import load_config

    config = load_config(words, "run")
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("l2l_ray").setLevel(logging.INFO)
    from l2l_ray.loop.local import run_local

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


def evaluate(words: Sequence[str]) -> None:
    """Evaluate the version that a finished run chose, under a protocol of your choice; see docs/metrics.md."""
    parser = argparse.ArgumentParser(prog="l2l evaluate", description=evaluate.__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--split", default="val", help="an evaluation split of the run")
    parser.add_argument("--protocol", default="native", help="native, or lavt480 for comparisons with LAVT's tables")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write one row per sentence, as Parquet")
    given = parser.parse_args(words)
    from l2l_ray.loop.evaluation.reevaluate import reevaluate

    evaluation = reevaluate(given.run_dir, given.split, given.protocol)
    print("\n".join(evaluation.lines()))
    if given.out:
        evaluation.save(given.out)
        print(given.out)


def export(words: Sequence[str]) -> None:
    """Write a run's pseudo-labels, or its masks of a split, for other programs; see docs/export.md."""
    parser = argparse.ArgumentParser(prog="l2l export", description=export.__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--format", required=True, help="coco, jsonl, parquet, hf, png, labelstudio or yolo")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="the folder to make")
    parser.add_argument("--split", help="predict on this split (val, testA, unlabeled, ...) instead of pseudo-labels")
    parser.add_argument("--round", type=int, metavar="N", help="pseudo-labels of this round; default: the last whole")
    parser.add_argument("--method", help="pseudo-labels of this selector; default: the run's main one")
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=0.0,
        metavar="X",
        help="leave out masks whose confidence, an estimated IoU, is lower; 0 to 1",
    )
    parser.add_argument("--all", action="store_true", help="also pseudo-labels that training did not use")
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    given = parser.parse_args(words)
    if given.split and (given.round is not None or given.method or given.all):
        parser.error("--round, --method and --all choose pseudo-labels; they have no effect with --split")
    from l2l_ray.loop.evaluation.export import export_predictions, export_pseudo_labels

    place = (given.run_dir, given.format, given.out)
    if given.split:
        done = export_predictions(*place, given.split, given.min_confidence, given.force)
    else:
        choice = (given.round, given.method, given.min_confidence, given.all, given.force)
        done = export_pseudo_labels(*place, *choice)
    print(done.line)


def data(words: Sequence[str]) -> int:
    """Import, check, count, split and compare data sets."""
    from l2l_ray.datatools.commands import data_command

    return data_command(words, print)


COMMANDS: dict[str, Callable[[Sequence[str]], int | None]] = {
    "run": run,
    "config": config,
    "report": report,
    "predict": predict,
    "evaluate": evaluate,
    "data": data,
    "export": export,
}


if __name__ == "__main__":
    sys.exit(main())
