"""The store of priors without SQLite: batches that are only added, on a shared folder and in a real object store."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from l2l_ray.prior import shared_store
from l2l_ray.prior.shared_store import MANY, SharedPriorStore, open_store
from l2l_ray.prior.store import PriorStore
from l2l_ray.types import Prior
from tests.object_store import ObjectStore


def _prior(number: int, failure: str = "") -> Prior:
    found = Prior(f"key-{number}", ((0.1, 0.2, 0.3, 0.4),), (0.5,), (), "cup", 0.5, "", "a reply")
    return Prior.absent(found.key, failure, "a reply") if failure else found


@pytest.fixture(params=["disk", "store"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "disk":
        return tmp_path / "priors"
    store: ObjectStore = request.getfixturevalue("store")
    return store.place(f"{tmp_path.name}/priors")


def test_what_was_put_is_found_by_whoever_opens_it_next(folder: Path) -> None:
    with SharedPriorStore(folder) as store:
        assert store.put_many([_prior(1), _prior(2, "no box"), _prior(1)]) == 2
        assert store.put_many([_prior(2), _prior(3)]) == 1
        assert store.missing(["key-4", "key-1", "key-4"]) == ["key-4"]
    again = SharedPriorStore(folder)
    assert again.get_many(["key-1", "key-9"]) == {"key-1": _prior(1)}
    assert again.get_many(["key-2"])["key-2"].failure == "no box", "the first answer stays"
    assert len(again) == 3


def test_two_who_write_at_once_lose_nothing(folder: Path) -> None:
    stores = [SharedPriorStore(folder) for _ in range(2)]
    threads = [threading.Thread(target=s.put_many, args=([_prior(0), _prior(n + 1)],)) for n, s in enumerate(stores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(SharedPriorStore(folder).get_many([f"key-{n}" for n in range(3)])) == ["key-0", "key-1", "key-2"]


def test_many_batches_become_one_and_one_that_comes_meanwhile_stays(tmp_path: Path) -> None:
    store = SharedPriorStore(tmp_path)
    for number in range(MANY + 1):
        store.put_many([_prior(number)])
    assert len(list(tmp_path.iterdir())) == MANY + 1
    assert len(SharedPriorStore(tmp_path)) == MANY + 1
    assert len(list(tmp_path.iterdir())) == 1
    store.put_many([_prior(1000)])
    assert len(SharedPriorStore(tmp_path)) == MANY + 2


def test_a_damaged_line_costs_that_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    SharedPriorStore(tmp_path).put_many([_prior(1), _prior(2)])
    (batch,) = tmp_path.iterdir()
    first, second = batch.read_text().splitlines()
    batch.write_text(f"{first[:20]}\n{second}\n")
    assert len(SharedPriorStore(tmp_path)) == 1 and "line 1 holds no prior" in caplog.text


def test_sqlite_is_for_disks_of_this_machine_alone(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_store(tmp_path) as local:
        assert isinstance(local, PriorStore)
        local.put_many([_prior(7)])
    assert isinstance(open_store(store.place("cache")), SharedPriorStore)
    monkeypatch.setattr(shared_store, "on_network", lambda _: True)
    shared = open_store(tmp_path)
    assert isinstance(shared, SharedPriorStore) and shared.get_many(["key-7"]), "taken over from an earlier version"
