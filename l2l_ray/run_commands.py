"""Commands of `l2l` about runs that are there: what came out, and what to take from them.

As in `cli.py`, every import that takes time is inside the command that needs it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from l2l_ray.storage import here, place


def runs(words: Sequence[str]) -> None:
    """List the runs below the run root, the last active first: state, data, main figure, size, and how to go on."""
    parser = argparse.ArgumentParser(prog="l2l runs", description=runs.__doc__)
    parser.add_argument("--run_root", help="folder of all runs; $L2L_HOME, else ~/l2l_runs, if not given")
    parser.add_argument("--all", action="store_true", help="also each run of a sweep, comparison or other folder")
    parser.add_argument("--json", action="store_true", help="every run and every fact, for programs")
    given = parser.parse_args(words)
    from l2l_ray.config import RunConfig
    from l2l_ray.overview.listing import list_runs
    from l2l_ray.overview.table import runs_json, runs_text

    root = RunConfig(run_root=given.run_root).root
    found = list_runs(root)
    print(runs_json(found, root) if given.json else runs_text(found, root, given.all))


def compare(words: Sequence[str]) -> None:
    """Compare runs that were measured on the same sentences: differences with intervals, and which settings differ.

    The first is compared with each of the others.
    """
    parser = argparse.ArgumentParser(prog="l2l compare", description=compare.__doc__)
    parser.add_argument("run_dirs", type=place, nargs="+", metavar="RUN", help="two finished runs or more")
    parser.add_argument("--split", help="on this split alone; default: each one that all have")
    parser.add_argument("--method", help="compare this selector of each run; default: each run's main one")
    parser.add_argument(
        "--common", action="store_true", help="where splits differ, compare on the sentences that both have"
    )
    given = parser.parse_args(words)
    if len(given.run_dirs) < 2:
        parser.error(f"got one run, {given.run_dirs[0]}; give two or more")
    from l2l_ray.overview.comparing import comparison

    print("\n".join(comparison(given.run_dirs, given.split, given.method, given.common)))


def report(words: Sequence[str]) -> None:
    """Write the report of a run folder again."""
    parser = argparse.ArgumentParser(prog="l2l report", description=report.__doc__)
    parser.add_argument("run_dir", type=place)
    run_dir = parser.parse_args(words).run_dir
    from l2l_ray.errors import DataError
    from l2l_ray.report.page import write_report

    if run_dir.is_dir() and not any((run_dir / name).is_file() for name in ("config.yaml", "metrics.jsonl")):
        raise DataError(f"{run_dir} is no run folder: it has no config.yaml; give the folder that a run printed")

    print(f"report: {write_report(run_dir)}")


def save(words: Sequence[str]) -> None:
    """Write a run's best model as a folder of its own, to keep, to give away or to put on the model hub."""
    parser = argparse.ArgumentParser(prog="l2l save", description=save.__doc__)
    parser.add_argument(
        "run", type=place, metavar="RUN", help="a finished run, or a version in it: RUN/train/l2l-v0002"
    )
    parser.add_argument("folder", type=here, metavar="FOLDER", help="where the model goes")
    parser.add_argument("--graph", action="store_true", help="also as a graph of torch.export, which needs torch alone")
    parser.add_argument("--onnx", action="store_true", help="also as ONNX")
    parser.add_argument("--push", metavar="OWNER/NAME", help="also put it on the model hub, under this id")
    parser.add_argument("--private", action="store_true", help="with --push: not for everybody")
    given = parser.parse_args(words)
    if given.private and not given.push:
        parser.error("--private has no effect without --push")
    from l2l_ray.device import no_loading_bars
    from l2l_ray.predictor import save_version
    from l2l_ray.segmenter.graph import require_onnx, save_graph

    if given.onnx:
        require_onnx()  # before the model that was there is replaced
    replaces = ", in the place of the model that was there" if (given.folder / "config.json").exists() else ""
    with no_loading_bars():
        segmenter = save_version(given.run, given.folder)
    print(f"model      {given.folder}{replaces}: Predictor.from_pretrained({str(given.folder)!r})")
    for is_wanted, as_onnx in ((given.graph, False), (given.onnx, True)):
        if is_wanted:
            print(f"graph      {save_graph(segmenter, given.folder, as_onnx)}")
    if given.push:
        from l2l_ray.saved_model import push

        print(f"pushed     {push(given.folder, given.push, given.private or None)}")


def evaluate(words: Sequence[str]) -> None:
    """Evaluate the version that a finished run chose, under a protocol of your choice; see docs/metrics.md."""
    parser = argparse.ArgumentParser(prog="l2l evaluate", description=evaluate.__doc__)
    parser.add_argument("run_dir", type=place)
    parser.add_argument("--split", default="val", help="an evaluation split of the run")
    parser.add_argument("--protocol", default="native", help="native, or lavt480 for comparisons with LAVT's tables")
    parser.add_argument(
        "--out", type=here, metavar="FILE", help="also write one row per sentence, as Parquet; a new file"
    )
    given = parser.parse_args(words)
    from l2l_ray.device import no_loading_bars
    from l2l_ray.files import require_new
    from l2l_ray.loop.evaluation.reevaluate import reevaluate

    if given.out:
        require_new(given.out)
    with no_loading_bars():
        evaluation = reevaluate(given.run_dir, given.split, given.protocol)
    print("\n".join(evaluation.lines()))
    if given.out:
        evaluation.save(given.out)
        print(given.out)


def export(words: Sequence[str]) -> None:
    """Write a run's pseudo-labels, or its masks of a split, for other programs; see docs/export.md."""
    parser = argparse.ArgumentParser(prog="l2l export", description=export.__doc__)
    parser.add_argument("run_dir", type=place)
    parser.add_argument("--format", required=True, help="coco, jsonl, parquet, hf, png, labelstudio or yolo")
    parser.add_argument("--out", type=here, required=True, metavar="FOLDER", help="the folder to make")
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
    parser.add_argument(
        "--guarantee",
        metavar="PROMISE",
        help="as many pseudo-labels as keep a promise: 'iou>=0.7 for 90%% at 95%%' = with 95 %% certainty, 90 %% of "
        "labels like these are expected to have an IoU of 0.7 or more",
    )
    parser.add_argument("--force", action="store_true", help="replace an export that is there")
    given = parser.parse_args(words)
    if given.split and (given.round is not None or given.method or given.all or given.guarantee):
        parser.error("--round, --method, --all and --guarantee choose pseudo-labels; they have no effect with --split")
    if given.guarantee and (given.all or given.min_confidence):
        parser.error("--guarantee says which labels are exported; leave --all and --min-confidence out")
    from l2l_ray.device import no_loading_bars
    from l2l_ray.loop.evaluation.export import export_predictions, export_pseudo_labels

    wanted = (given.run_dir, given.format, given.out)
    if given.split:
        with no_loading_bars():
            done = export_predictions(*wanted, given.split, given.min_confidence, given.force)
    else:
        choice = (given.round, given.method, given.min_confidence, given.all, given.force, given.guarantee)
        done = export_pseudo_labels(*wanted, *choice)
    print(done.line)


def suggest(words: Sequence[str]) -> None:
    """Say which photos to label next: of doubtful, undecided labels, and like many others; see docs/export.md."""
    parser = argparse.ArgumentParser(prog="l2l suggest", description=suggest.__doc__)
    parser.add_argument("run_dir", type=place)
    parser.add_argument("--count", type=int, default=20, help="how many photos, 1 to 2,000; they are chosen together")
    parser.add_argument("--out", type=here, metavar="FOLDER", help="also a list, a sheet and tasks for Label Studio")
    given = parser.parse_args(words)
    from l2l_ray.device import no_loading_bars
    from l2l_ray.files import require_new
    from l2l_ray.loop.evaluation.suggest import suggest as found_by
    from l2l_ray.loop.evaluation.suggest import write_suggestions
    from l2l_ray.review.journal import decided_ids

    if given.out:
        require_new(given.out)
    with no_loading_bars():
        found = found_by(given.run_dir, given.count, decided_ids(given.run_dir))
    for number, one in enumerate(found, 1):
        print(f"{number:4} {one.image}  doubt {one.doubt:.2f}, gain {one.gain:.2f}: {' / '.join(one.texts[:3])}")
    if given.out:
        print(write_suggestions(given.run_dir, found, given.out))


def review(words: Sequence[str]) -> None:
    """Look at a finished run's labels in the browser, the doubtful first, and decide about them."""
    from l2l_ray.review.server import review_command

    review_command(words, lambda line: print(line, flush=True))
