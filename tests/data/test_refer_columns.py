"""Columns of a REFER data set: what goes in comes out, from memory or from disk."""

from array import array
from pathlib import Path
from typing import Any

from l2l_ray.data.refer_cache import read_columns, write_columns
from l2l_ray.data.refer_columns import RefColumns, TruthColumns, ref_columns, truth_columns
from l2l_ray.data.refer_files import ImageRow, Instances, Ref, Truth

REFS = [
    Ref(3, (5,), 9, "train", ((7, "left man"), (8, "café \U0001f600"))),
    Ref(4, (6, 7), 4, "val", ((9, "left man"),)),
    Ref(1, (), 9, "train", ((2, "\ud800 half a pair"),)),
    Ref(2, (-1,), 77, "train", ()),
]
INSTANCES = Instances(
    {9: ImageRow("ü/9.jpg", 8, 6), 4: ImageRow("4.jpg", None, 3)},
    {
        7: Truth({"size": [6, 8], "counts": [48]}, 1, 9),
        5: Truth([array("d", [0.1, 0, 4, 0, 4, 4]), array("d", [1, 2])], 2, None),
        6: Truth(None, None, 4),
        8: Truth([["x"]], 99, 4),
    },
    {2: "cat", 1: "dog"},
)


def plain(segmentation: Any) -> Any:
    return [part.tolist() for part in segmentation] if isinstance(segmentation, list) else segmentation


def check_refs(refs: RefColumns) -> None:
    assert list(refs.take()) == REFS
    assert refs.splits == ("train", "val")
    assert list(refs.take(refs.rows("train"))) == [REFS[0], REFS[2], REFS[3]]
    assert refs.rows("train", [9]).tolist() == [0, 2] and refs.rows("val", [9]).tolist() == []
    assert refs.rows("tra").tolist() == []
    assert refs.image_ids(refs.rows("train")) == [9, 77]
    assert [refs.image(i) for i in (9, 4, 5)] == [ImageRow("ü/9.jpg", 8, 6), ImageRow("4.jpg", None, 3), None]


def check_truths(truths: TruthColumns) -> None:
    found = {i: truths.truth(i) for i in (5, 6, 7)}
    assert {i: (plain(t.segmentation), t.category_id, t.image_id) for i, t in found.items() if t} == {
        5: ([[0.1, 0, 4, 0, 4, 4], [1, 2]], 2, None),
        6: (None, None, 4),
        7: ({"size": [6, 8], "counts": [48]}, 1, 9),
    }
    assert truths.truth(8) == Truth([["x"]], 99, 4) and truths.truth(1) is None and truths.truth(99) is None
    assert [truths.category(i) for i in (1, 2, 99, None)] == ["dog", "cat", "", ""]


def test_columns_give_back_what_went_in_from_memory_and_from_disk(tmp_path: Path) -> None:
    refs, truths = ref_columns(REFS, INSTANCES), truth_columns(INSTANCES)
    check_refs(RefColumns(refs))
    check_truths(TruthColumns(truths))
    write_columns(tmp_path / "a.refs", refs)
    write_columns(tmp_path / "a.truth", truths)
    check_refs(RefColumns(read_columns(tmp_path / "a.refs")))
    check_truths(TruthColumns(read_columns(tmp_path / "a.truth")))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.refs", "a.truth"]


def test_columns_of_nothing(tmp_path: Path) -> None:
    empty = Instances({}, {}, {})
    write_columns(tmp_path / "a", ref_columns([], empty))
    refs = RefColumns(read_columns(tmp_path / "a"))
    assert (list(refs.take()), refs.splits, refs.image(1)) == ([], (), None)
    assert TruthColumns(truth_columns(empty)).truth(1) is None


def test_a_text_is_stored_once() -> None:
    columns = ref_columns(REFS, INSTANCES)
    assert len(columns["expression_ends"]) - 1 == 3 and columns["sent_expression"].tolist() == [0, 1, 0, 2]
