"""How many labels of the last round are doubtful, by what was committed."""

from l2l_ray.doubt import Doubt
from l2l_ray.loop.evaluation.doubtful import label_doubt
from l2l_ray.loop.state.ledger import Ledger, read_shard
from l2l_ray.loop.state.run_folder import RunFolder


def test_all_labels_of_the_last_round_are_counted(whole_run: RunFolder) -> None:
    entries = Ledger(whole_run.ledger_path).entries("l2l", whole_run.config.loop.rounds - 1)
    labels = [label for entry in entries for label in read_shard(whole_run.path / entry.path)]
    found = label_doubt(whole_run, "l2l")
    assert found is not None and found["num"] == len(labels) > 0
    assert Doubt(**found) == Doubt.of(label.confidence for label in labels)


def test_a_method_that_labels_nothing_has_none(whole_run: RunFolder) -> None:
    assert label_doubt(whole_run, "supervised") is None
