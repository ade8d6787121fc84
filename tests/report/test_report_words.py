"""Words for people: what was left out, what to do next, and the glossary."""

import re
from pathlib import Path
from typing import Any

import pytest

from l2l_ray.datatools.export import FORMATS
from l2l_ray.report.glossary import TERMS, occurring
from l2l_ray.report.left_out import MAX_NAMES, left_out
from l2l_ray.report.next_steps import next_steps, take_away
from l2l_ray.report.record import RunRecord
from l2l_ray.report.summary import model_answers
from l2l_ray.report.tables import priors_table
from l2l_ray.selector.registry import selectors


def skip(kind: str, path: str, reason: str = "why") -> dict[str, Any]:
    return {"kind": kind, "sent_id": 1, "path": path, "reason": reason}


def test_what_was_left_out_is_counted_by_reason_with_the_names_of_its_photos() -> None:
    skips = [skip("empty_mask", "/a/x.jpg"), *(skip("missing_image", f"/a/{n // 2}.jpg") for n in range(4))]
    first, second = left_out(skips, "own")
    assert (first.reason, first.num, first.files) == ("the photo is not there", 4, ("0.jpg", "1.jpg"))
    assert (second.reason, second.num, second.names, second.first) == ("the mask is empty", 1, "x.jpg", "why")
    assert left_out([], "own") == []


def test_photos_of_one_name_in_two_folders_are_told_apart() -> None:
    (entry,) = left_out([skip("empty_mask", f"/data/images/own/{name}") for name in ("a.jpg", "sub/a.jpg")], "own")
    assert entry.files == ("a.jpg", "sub/a.jpg")


def test_what_stays_with_a_change_is_told_apart_from_what_was_left_out() -> None:
    kinds = [*["long_expression_cut"] * 3, "long_expression_tokens", "empty_mask"]
    found = left_out([skip(kind, "x.jpg") for kind in kinds], "own")
    assert [(entry.stays, entry.num) for entry in found] == [(False, 1), (True, 3), (True, 1)]


def test_many_names_are_cut_and_counted() -> None:
    (entry,) = left_out([skip("missing_image", f"{n}.jpg") for n in range(MAX_NAMES + 3)], "own")
    assert entry.names.endswith(f"{MAX_NAMES - 1}.jpg and 3 more")


@pytest.mark.parametrize("line", [{}, {"kind": None, "path": 3}, {"kind": "odd_thing"}])
def test_lines_that_lack_something_are_counted_all_the_same(line: dict[str, Any]) -> None:
    (entry,) = left_out([line], "own")
    assert entry.num == 1 and entry.reason in ("for a reason that was not recorded", "odd thing")


def steps(
    config: dict[str, Any], photos: list[dict[str, Any]], env: dict[str, Any] | None = None, **results: Any
) -> list[str]:
    record = RunRecord(Path("runs/my run"), config, env or {}, results, (), (), {}, (), tuple(photos), ())
    return [step.command for step in next_steps(record)]


LABEL = {"split": "unlabeled", "used": True}
OWN = {"name": "first", "data": {"root": "data/refer", "dataset": "own"}}


def test_own_labels_are_corrected_brought_home_and_learned_from() -> None:
    found, run = steps(OWN, [LABEL]), f"{Path.cwd()}/runs/my run"
    assert found[0] == f"l2l review '{run}'"
    assert found[1] == f"l2l data import review '{run}' --root data/refer --dataset own --update"
    assert found[2] == f"l2l run --config '{run}/config.yaml' --name first-corrected"


def test_every_command_works_from_any_folder() -> None:
    found = steps(OWN, [LABEL], {"directory": "/my data"})
    assert all(f"'{Path.cwd()}/runs/my run" in command for command in found)
    assert " --root '/my data/data/refer' " in found[1]
    assert found[2].startswith("cd '/my data' && l2l run --config '/"), "where the config's own paths are right"
    in_store = {**OWN, "data": {"root": "s3://bucket/refer", "dataset": "own"}}
    found = steps(in_store, [LABEL], {"directory": "/my data"})
    assert " --root s3://bucket/refer " in found[1] and found[2].startswith("l2l run ")


def test_what_label_began_goes_on_by_label_and_so_writes_masks() -> None:
    env = {"command": "/venv/bin/l2l label 'my photos' --preset smoke", "directory": "/here"}
    found = steps({**OWN, "run_root": "/runs"}, [LABEL], env)
    assert found[2] == "cd /here && l2l label 'my photos' --preset smoke --run_root /runs"
    assert steps(OWN, [LABEL], {"command": "l2l run --config a.yaml"})[2].startswith("l2l run --config ")


def test_every_format_of_an_export_is_named() -> None:
    record = RunRecord(Path("runs/own"), OWN, {}, {}, (), (), {}, (), (LABEL,), ())
    (step,) = [step for step in next_steps(record) if step.text.startswith("Take the labels away")]
    said = set(re.findall(r"\w+", f"{step.text} {step.command}"))
    assert set(FORMATS) <= said


def test_settings_that_would_pass_over_the_new_masks_are_lifted() -> None:
    fixed = {**OWN, "data": {**OWN["data"], "split_file": "own.txt", "labeled_frac": 0.3}}
    assert steps(fixed, [LABEL])[2].endswith("--data.split_file null --data.labeled_frac null")


@pytest.mark.parametrize(("shares", "ending"), [((0.4, 0.0), " --all"), ((0.0, 0.4), ""), ((None,), ""), ((), "")])
def test_where_the_last_round_used_no_label_all_are_taken(shares: tuple[float | None, ...], ending: str) -> None:
    points = tuple({"method": "l2l", "version": v, "labels.accepted_frac": share} for v, share in enumerate(shares))
    record = RunRecord(Path("runs/own"), OWN, {}, {}, (), points, {}, (), (LABEL,), ())
    (step,) = take_away(record)
    assert step.command.endswith(f" --format coco --out labels-coco{ending}")


def test_a_benchmark_is_not_corrected_and_what_makes_no_labels_exports_none() -> None:
    assert [c.split()[1] for c in steps(OWN, [LABEL], hidden_truth={"l2l": [{}]})] == ["export", "predict"]
    assert [c.split()[1] for c in steps({"data": {"root": "embedded"}}, [])] == ["predict"]


def test_terms_are_found_as_whole_words_in_any_form() -> None:
    def names(text: str) -> list[str]:
        return [term.name for term in occurring(text)]

    assert names("Two rounds; P@0.5 rose.") == ["IoU ≥ 50 %", "round"]
    assert names("around a reference, valid, cellar") == []
    assert (
        "held-out photos" in names("held out")
        and "unlabeled" in names("Unlabeled")
        and "labeled" not in names("Unlabeled")
    )


def test_the_glossary_explains_the_words_of_the_paper_once_each_by_alphabet() -> None:
    names = [term.name for term in TERMS]
    assert names == sorted(names, key=str.lower) and len(set(names)) == len(names)
    needed = {"ref", "referent", "prior", "gate", "burn-in", "cross-fitting", "true mask", "IoU ≥ 50 %", "overall IoU"}
    assert needed | {"round", "version", "teacher", "stated confidence", "label"} <= set(names)
    assert all(any(term.occurs_in(form) for form in (term.name, *term.name.split())) for term in TERMS)
    assert all(occurring(spec.label) for spec in selectors()), "the names of a table's rows are explained"


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ({"num": 28, "by_user": 28}, "28 texts had a hint, and the language model was not asked."),
        (
            {"num": 28, "by_user": 26, "failures": {"cut off": 2}},
            "The language model gave no usable box for 2 of 2 texts; these were used without one. 26 texts had a hint, "
            "and the language model was not asked.",
        ),
        ({"num": 28}, "The language model gave a usable box for each of the 28 texts."),
        ({}, ""),
    ],
)
def test_the_language_model_is_not_judged_by_texts_that_had_a_hint(event: dict[str, Any], said: str) -> None:
    events = ({"event": "priors", "set": "unlabeled", **event},)
    record = RunRecord(Path("x"), {}, {}, {}, events, (), {}, (), (), ())
    assert model_answers(record) == said
    table = priors_table(record)
    assert table is not None and ("hint given" in table.header) == ("by_user" in event)
