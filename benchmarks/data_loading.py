"""What opening a data set of RefCOCO's size costs: the plain way, ours for the first time, ours from the columns.

The stand-in has 50,000 refs, 142,000 sentences, 20,000 images and 200,000 annotations with outlines like COCO's; it is
made in `--folder` unless it is there. Every figure is of a fresh process, and all of them come from one run:

    plain     pickle.load, json.load and the dicts by id that the REFER API makes of them
    first     ReferDataset.open where nothing is cached
    cached    ReferDataset.open after that
    hashed    the same where no hash is remembered, so that both source files are read once to hash them
    worker    as cached, while another process has the data set open

`start` is until the data set can be asked, `list` is until the path, size and expression of every train sentence have
been listed after that; CPU seconds do not count waiting for a busy machine. Memory is in MB of 10^6 bytes: PSS counts a
page that n processes share as 1/n; `added` is what came on top of the imports. Plain imports the standard library
alone, ours numpy and torch too: `process` counts that.

Usage: python -m benchmarks.data_loading [--folder FOLDER] [--repeats 3] [--out benchmarks/results/data-loading.json]
"""

from __future__ import annotations

import argparse
import json
import pickle
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

NUM_IMAGES, ANNOTATIONS_PER_IMAGE, NUM_REFS, NUM_SENTENCES = 20_000, 10, 50_000, 142_000
SIZES = ((640, 480), (480, 640), (640, 427), (500, 375))
WORDS = "man woman left right the in red blue shirt of on with hat front back person guy girl far near white".split()
WAYS = ("plain", "first", "cached", "hashed", "worker")


def write_stand_in(root: Path) -> None:
    """Write the two files, `refs(unc).p` last: it marks the folder as complete."""
    folder = root / "refcoco"
    if (folder / "refs(unc).p").exists():
        return
    from l2l_ray.randomness import python_generator

    folder.mkdir(parents=True, exist_ok=True)
    rng = python_generator(0)
    images = [_image(i, rng) for i in range(NUM_IMAGES)]
    head = {"info": {"year": 2014}, "licenses": [{"id": 1, "name": "none"}], "images": images}
    with (folder / "instances.json").open("w") as file:
        file.write(json.dumps(head)[:-1] + ', "annotations": [')
        for number in range(NUM_IMAGES * ANNOTATIONS_PER_IMAGE):
            file.write(", " * (number > 0) + json.dumps(_annotation(number, images, rng)))
        file.write('], "categories": ' + json.dumps([{"id": i, "name": f"thing {i}"} for i in range(1, 81)]) + "}")
    (folder / "refs(unc).p").write_bytes(pickle.dumps(_refs(images, rng), 2))


def _image(i: int, rng: random.Random) -> dict[str, Any]:
    width, height = rng.choice(SIZES)
    name = f"COCO_train2014_{10 * i:012}.jpg"
    urls = {"coco_url": f"http://example.org/{name}", "flickr_url": f"http://example.org/{rng.getrandbits(60)}.jpg"}
    row = {"license": 1, "file_name": name, "width": width, "height": height, "date_captured": "2013-11-14 16:28:13"}
    return {**row, **urls, "id": 10 * i}


def _annotation(number: int, images: list[dict[str, Any]], rng: random.Random) -> dict[str, Any]:
    image = images[number // ANNOTATIONS_PER_IMAGE]
    parts = [_outline(image, rng) for _ in range(1 + (rng.random() < 0.15))]
    ids = {"image_id": image["id"], "category_id": rng.randint(1, 80), "id": 7 * number}
    box = [rng.uniform(0, 99) for _ in range(4)]
    return {"segmentation": parts, "area": rng.uniform(100, 9e4), "iscrowd": 0, "bbox": box, **ids}


def _outline(image: dict[str, Any], rng: random.Random) -> list[float]:
    """Return a polygon of 10 to 60 points with two decimals, as an annotator clicks them."""
    x, y, radius = rng.uniform(0, image["width"]), rng.uniform(0, image["height"]), rng.uniform(10, 120)
    points = []
    for i in range(num := rng.randint(10, 60)):
        turn = 2j * 3.14159265 * i / num
        at = complex(x, y) + radius * rng.uniform(0.8, 1.2) * 2.718281828**turn
        points += [round(min(max(at.real, 0), image["width"]), 2), round(min(max(at.imag, 0), image["height"]), 2)]
    return points


def _refs(images: list[dict[str, Any]], rng: random.Random) -> list[dict[str, Any]]:
    refs, sent_id = [], 0
    for number in range(NUM_REFS):
        ann = number * (NUM_IMAGES * ANNOTATIONS_PER_IMAGE) // NUM_REFS
        image = images[ann // ANNOTATIONS_PER_IMAGE]
        split = "train" if number < 0.85 * NUM_REFS else ("val", "testA", "testB")[ann % 3]
        sentences = []
        for _ in range(2 + (number < NUM_SENTENCES - 2 * NUM_REFS)):
            sent = " ".join(rng.choices(WORDS, k=rng.randint(1, 8)))
            sentences.append({"tokens": sent.split(), "raw": sent.capitalize(), "sent_id": sent_id, "sent": sent})
            sent_id += 1
        ids = {"ref_id": number, "ann_id": 7 * ann, "image_id": image["id"], "category_id": 1 + ann % 80}
        names = {"file_name": f"{image['file_name'][:-4]}_{ann}.jpg", "split": split}
        refs.append({**ids, **names, "sent_ids": [s["sent_id"] for s in sentences], "sentences": sentences})
    return refs


def memory_mb(kind: str) -> float:
    """Return a figure of this process, MB: "Pss" now, "VmHWM" the most resident memory ever."""
    source = "smaps_rollup" if kind == "Pss" else "status"
    line = next(line for line in Path(f"/proc/self/{source}").read_text().splitlines() if line.startswith(f"{kind}:"))
    return int(line.split()[1]) * 1024 / 1e6


def measure(way: str, root: Path, cache_dir: Path) -> dict[str, float]:
    """Open the data set in this process and list its train sentences."""
    if way != "plain":
        from l2l_ray.data.refer import ReferDataset
    imported = memory_mb("Pss")
    started, started_cpu = time.perf_counter(), time.process_time()
    if way == "plain":
        opened: Any = _open_plainly(root / "refcoco")
    else:
        opened = ReferDataset.open(root, "refcoco", "unc", cache_dir=cache_dir)
    found = {"start_s": time.perf_counter() - started, "start_cpu_s": time.process_time() - started_cpu}
    found["start_added_mb"] = memory_mb("Pss") - imported
    found["start_process_mb"], found["start_peak_rss_mb"] = memory_mb("Pss"), memory_mb("VmHWM")
    started, started_cpu = time.perf_counter(), time.process_time()
    listed = _list_plainly(*opened) if way == "plain" else opened.examples("train")[0]
    found["list_s"], found["list_cpu_s"] = time.perf_counter() - started, time.process_time() - started_cpu
    found["list_added_mb"] = memory_mb("Pss") - imported
    return {**found, "num_listed": len(listed)}


def _open_plainly(folder: Path) -> tuple[dict[int, Any], dict[int, Any], Any]:
    """Return what the REFER API holds: both files whole, and the indexes it makes."""
    with (folder / "refs(unc).p").open("rb") as file:
        refs = pickle.load(file)  # noqa: S301  # written here a moment ago; what is measured
    with (folder / "instances.json").open() as text:
        instances = json.load(text)
    images, anns, by_image, others = {}, {}, {}, []
    for ann in instances["annotations"]:
        anns[ann["id"]] = ann
        by_image.setdefault(ann["image_id"], []).append(ann)
    for image in instances["images"]:
        images[image["id"]] = image
    by_id, sentence_refs, sentence_tokens, refs_of_image, ref_anns = {}, {}, {}, {}, {}
    for ref in refs:
        by_id[ref["ref_id"]] = ref
        refs_of_image.setdefault(ref["image_id"], []).append(ref)
        ref_anns[ref["ref_id"]] = anns[ref["ann_id"]]
        for sentence in ref["sentences"]:
            sentence_refs[sentence["sent_id"]] = ref
            sentence_tokens[sentence["sent_id"]] = sentence["tokens"]
    others = [anns, by_image, sentence_refs, sentence_tokens, refs_of_image, ref_anns, instances]
    return by_id, images, others


def _list_plainly(refs: dict[int, Any], images: dict[int, Any], _: Any) -> list[tuple[Any, ...]]:
    listed = []
    for ref in refs.values():
        if ref["split"] == "train":
            row = images[ref["image_id"]]
            place = f"images/{row['file_name']}", row["width"], row["height"]
            listed += [(s["sent_id"], ref["ref_id"], row["id"], *place, s["sent"]) for s in ref["sentences"]]
    return listed


def run_child(way: str, root: Path, cache_dir: Path) -> dict[str, float]:
    """Return the figures of one fresh process; with "worker", another one holds the data set open meanwhile."""
    command = [sys.executable, __file__, "--folder", str(root), "--cache", str(cache_dir), "--way"]
    if way == "first":
        shutil.rmtree(cache_dir, ignore_errors=True)
    if way == "hashed":
        shutil.rmtree(cache_dir / "stamps")
    if way != "worker":
        return json.loads(subprocess.run([*command, way], check=True, capture_output=True, text=True).stdout)
    with subprocess.Popen([*command, "hold"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdin and holder.stdout
        holder.stdout.readline()
        found = run_child("cached", root, cache_dir)
        holder.stdin.close()
    return found


def _both(figures: dict[str, float], unit: str) -> float:
    return figures[f"start_{unit}"] + figures[f"list_{unit}"]


def main() -> None:
    """Make the stand-in, measure every way in turn, write the medians and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "l2l-refer-stand-in")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "data-loading.json")
    parser.add_argument("--way", choices=(*WAYS, "hold"), help="internal: measure this in here")
    parser.add_argument("--cache", type=Path, help="internal")
    args = parser.parse_args()
    if args.way:
        print(json.dumps(measure("cached" if args.way == "hold" else args.way, args.folder, args.cache)), flush=True)
        if args.way == "hold":
            sys.stdin.read()
        return
    from benchmarks.command import try_place, write_results  # here: in the processes above it would be measured

    try_place(args.out)
    write_stand_in(args.folder)
    time.sleep(3)  # a file that has just changed is not taken for unchanged
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for _ in range(args.repeats):
        for way, found in runs.items():
            found.append(run_child(way, args.folder, args.folder / "cache"))
    medians = {
        way: {key: round(statistics.median(row[key] for row in found), 4) for key in found[0]}
        for way, found in runs.items()
    }
    plain, cached, worker = medians["plain"], medians["cached"], medians["worker"]
    result = {
        "sizes": {"refs": NUM_REFS, "sentences": NUM_SENTENCES, "images": NUM_IMAGES, "annotations": 200_000},
        "repeats": args.repeats,
        "median_of_repeats": medians,
        "cached_start_times_faster": round(plain["start_s"] / cached["start_s"], 1),
        "cached_start_and_list_times_faster": _both(plain, "s") / _both(cached, "s"),
        "cached_start_and_list_times_faster_cpu": _both(plain, "cpu_s") / _both(cached, "cpu_s"),
        "cached_process_memory_of_plain": round(cached["start_process_mb"] / plain["start_process_mb"], 3),
        "cached_added_memory_of_plain": round(cached["start_added_mb"] / plain["start_added_mb"], 3),
        "worker_adds_mb": worker["start_added_mb"],
        "worker_adds_with_all_train_sentences_listed_mb": worker["list_added_mb"],
    }
    result = {key: round(value, 3) if isinstance(value, float) else value for key, value in result.items()}
    write_results(args.out, result)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
