"""`make compare`, or `python -m benchmarks.compare`: run what is left, write compare.json, print the tables.

It may be stopped at any time and goes on with the same command, here or on another machine that has the records;
of a seed that was begun on another kind of processor, all rows asked for are run anew (`records`).

    --list                 what is done, what is left, how long that takes; runs nothing
    --only ROW|GROUP ...   rows, or groups of them: main, selectors, ablations, ceilings, biased, cost
    --curve                the label curve: other shares of labeled images, for three rows; both are its own, so
                           --only, --schedules and --smoke are refused beside it
    --smoke                everything in miniature, in minutes: that the machinery works, no figures

Report seeds are 11 to 15; the method was tuned on seeds 0 to 2 and 10. The tables in benchmarks/results hold report
seeds alone, whatever records lie there; a folder of your own (--results) has tables of all that is in it.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
from pathlib import Path

from benchmarks.command import at_least_one
from benchmarks.compare.rows import CURVE, CURVE_ROWS, GROUPS, REPORT_SEEDS, ROWS, SCHEDULES, Task, chosen_rows
from benchmarks.compare.runner import Comparison, Runner, list_text, tasks_of
from l2l_ray.config import RunConfig
from l2l_ray.errors import ConfigError, L2LError
from l2l_ray.refshapes.synthetic import STYLE_OF_DATASET
from l2l_ray.storage import at_home

RESULTS = Path(__file__).resolve().parents[1] / "results"
SMOKE_ROWS = ("supervised", "accept_all", "l2l", "sample_oracle")


def main() -> int:
    """Parse and do what is asked; return the exit status."""
    given = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is stopped too
    try:
        return _work(given) if given.work else _compare(given)
    except L2LError as error:
        logging.getLogger(__name__).error("%s", error)
        return 1
    except KeyboardInterrupt:
        return 130


def _compare(given: argparse.Namespace) -> int:
    from benchmarks.compare.summary import write_summary
    from benchmarks.compare.table_notes import named
    from benchmarks.compare.tables import text_tables

    _take_device(given.device)
    _check_curve(given)
    results = given.results or (RunConfig(run_root=given.run_root).root / "compare-smoke" if given.smoke else RESULTS)
    schedules = given.schedules or (["smoke"] if given.smoke else ["5pct", "1pct"])
    seeds = given.seeds or (REPORT_SEEDS[:2] if given.smoke else REPORT_SEEDS)
    if min(seeds) < 0:
        raise ConfigError(f"--seeds must be numbers from 0 up, got {seeds}")
    rows = chosen_rows(given.only or list(SMOKE_ROWS if given.smoke else GROUPS))
    tasks = tasks_of(given.datasets, schedules, seeds, rows)
    if given.curve:
        tasks = tasks_of(given.datasets, CURVE, seeds, chosen_rows(list(CURVE_ROWS)))
    comparison = Comparison(tasks, results / "compare", given.run_root)
    shown = REPORT_SEEDS if results == RESULTS else None
    if shown is not None and (others := [seed for seed in seeds if seed not in shown]):
        print(f"{named('seed', others)}: records are written, but the tables in {results} show the report seeds "
              f"{shown[0]} to {shown[-1]} alone; --results FOLDER has tables of all seeds")  # fmt: skip
    if given.list:
        print(list_text(comparison, given.processes))
        return 0
    runner = Runner(comparison, given.processes, given.keep_runs)
    runner.run()
    try:
        print(text_tables(write_summary(results, shown)))
    finally:  # also where records cannot be summed up
        for task, why in runner.failed.items():
            print(f"failed: {task.name}: {why}")
    return 1 if runner.failed else 0


def _work(given: argparse.Namespace) -> int:
    from benchmarks.compare.worker import work

    dataset, schedule, seed, row = given.work
    task = Task(dataset, schedule, int(seed), row)
    records = Comparison([task], given.records, given.run_root).needed(task)
    if records is None:
        raise ConfigError(
            f"{task.name} needs records of {', '.join(task.spec.needs)} in {given.records}; run them first"
        )
    work(task, records, given.records, given.run_root, given.keep_runs)
    return 0


def _take_device(device: str) -> None:
    if device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # here too: which rows are left depends on what computes them
    if device == "cuda":
        import torch

        if not torch.cuda.is_available():
            raise ConfigError("--device is cuda, but torch finds no GPU here; use --device cpu, or leave it out")


def _check_curve(given: argparse.Namespace) -> None:
    words = {"--only": given.only, "--schedules": given.schedules, "--smoke": given.smoke}
    if given.curve and (beside := [word for word, value in words.items() if value]):
        raise ConfigError(
            f"--curve has rows and schedules of its own, got {', '.join(beside)} beside it; leave one of the two out"
        )


def _absolute(path: str) -> str:
    return str(at_home(Path(path)).absolute())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="ROW", help=f"groups or rows: {', '.join(r.name for r in ROWS)}")
    parser.add_argument("--schedules", nargs="+", choices=list(SCHEDULES), help="default: 5pct 1pct")
    parser.add_argument("--datasets", nargs="+", choices=list(STYLE_OF_DATASET), default=["refshapes"])
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 11 to 15; others need --results, too")
    parser.add_argument("--curve", action="store_true", help="the label curve instead of the rows")
    parser.add_argument("--smoke", action="store_true", help="two seeds, four rows, the smoke preset")
    parser.add_argument("--list", action="store_true", help="show what is left and run nothing")
    parser.add_argument("--processes", type=at_least_one, default=2, help="rows at a time (default 2)")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument(
        "--run-root", type=_absolute, help="where runs, burn-ins and priors are; default $L2L_HOME, else ~/l2l_runs"
    )
    parser.add_argument(
        "--results", type=lambda path: Path(_absolute(path)), help="where compare.json and the records are"
    )
    parser.add_argument("--keep-runs", action="store_true", help="keep the weights of finished runs")
    parser.add_argument("--work", nargs=4, metavar=("DATASET", "SCHEDULE", "SEED", "ROW"), help=argparse.SUPPRESS)
    parser.add_argument("--records", type=Path, help=argparse.SUPPRESS)
    return parser


if __name__ == "__main__":
    sys.exit(main())
