"""Masks for a new folder of photos and texts, by a finished run, on Ray: what `l2l predict` does in one process.

    python jobs/label.py more-photos --run runs/mine --out predictions
    python jobs/label.py table.csv --run runs/mine --out predictions --dry-run
    ray job submit -- python jobs/label.py /shared/photos "the left cup" --run /shared/runs/mine --out /shared/masks

The files are those of `l2l predict`. The same command goes on where it was stopped, and with new photos takes these
alone. How many actors there are and what each asks for says the run's `cluster` section; `--cluster.num_labelers 8`
and its like change it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from l2l_ray.config import load_config
from l2l_ray.config.places import settled
from l2l_ray.config.reading import own_words
from l2l_ray.errors import ConfigError
from l2l_ray.job import run_job, say
from l2l_ray.storage import here, place

ROWS_PER_LINE = 100  # how often progress is said


def main(words: list[str]) -> int:
    """Label what the command line describes.

    Returns:
        0 when all is answered, 1 when some items could not be or something failed, 130 when it was told to stop.
    """
    stopped = "what is answered stays: the same command goes on"
    return run_job("label", lambda: _label(words), stopped, ", `l2l predict` needs none")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    source = "folder of photos with texts beside them, or a CSV, JSONL or Parquet file of image and expression"
    add("source", type=here, metavar="FOLDER|TABLE", help=source)
    add("text", nargs="?", help="what to look for; for a folder: the same in every photo")
    add("--run", type=place, required=True, metavar="RUN", help="a finished run, or the folder of a version in it")
    add("--out", type=here, default=Path("predictions"), metavar="FOLDER", help="where results and their index go")
    add("--images", type=here, metavar="FOLDER", help="of a table's photos, if not the table's own")
    add("--again", action="store_true", help="also ask what FOLDER holds the answer of")
    add("--dry-run", action="store_true", help="say what would be done, and start nothing")
    return parser


def _label(words: list[str]) -> int:
    given, rest = own_words(_parser(), words)
    if foreign := [
        word for word in rest if word.startswith("-") and not word.startswith(("--cluster.", "--no-cluster."))
    ]:
        raise ConfigError(f"unknown option {foreign[0]}; expected those of --help, or --cluster.FIELD")
    from l2l_ray.datatools.photos import photos_and_texts
    from l2l_ray.loop.state.version_record import weights_sha256
    from l2l_ray.predictions import PredictionFolder, predict_into
    from l2l_ray.predictor import run_and_version
    from l2l_ray.types import PhotoText

    for name in ("run", "source", "out", "images"):
        if path := getattr(given, name):
            setattr(given, name, place(settled(name, str(path))))
    run, method, version = run_and_version(given.run)
    config = load_config(["--config", str(run.path / "config.yaml"), *rest])
    found = photos_and_texts(given.source, given.text, given.images)
    folder = PredictionFolder.open(given.out, str(given.run), weights_sha256(run.version_dir(method, version)))

    def answer(items: list[PhotoText]) -> int:
        from l2l_ray.actors.environment import set_environment

        set_environment(config)  # Ray reads its environment when it is imported, which is the next line
        from l2l_ray.actors.predicting import predict

        num_failed = 0

        def noted(row: dict[str, Any], num_done: int) -> None:
            nonlocal num_failed
            if "error" in row:
                num_failed += 1
                sys.stderr.write(f'{row["image"]} "{row["expression"]}": {row["error"]}\n')
            if num_done % ROWS_PER_LINE == 0:
                say(f"{num_done} of {len(items)}")

        predict(given.run, items, folder, config.cluster, noted)
        return num_failed

    return predict_into(folder, found, (method, version), given.again, None if given.dry_run else answer, say)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
