"""Checks every shape in a signature while tests run, and gives them scratch run roots.

The import hook adds jaxtyping + beartype to each module of the package at import, here and nowhere else. A module that
imports names of its signatures for type checkers only cannot be checked at run time and is left as it is.
"""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from jaxtyping import install_import_hook

import tests.typecheck  # noqa: F401  # the hook below names it
from l2l_ray.actors import environment
from l2l_ray.config import RunConfig, smoke_config

environment.set_defaults(address=None)  # before any test module imports ray
# Ray lets its workers give way to everything else; on a busy machine they would hardly start.
os.environ.setdefault("RAY_worker_niceness", "0")
# Before torch is imported: tensors of tests are tiny, and one thread is enough for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# A shell that starts tests in the background has Ctrl-C ignored, which the processes that tests start would inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)

PACKAGE = Path(__file__).parent.parent / "l2l_ray"

pytest_plugins = [
    "tests.whole_run",
    "tests.object_store",
    "tests.scheduling",
]  # loaded after this file, so after the import hook


def _checkable_modules() -> list[str]:
    """Name every module whose annotations exist at run time, except those Ray pickles into other processes."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if path.name != "__init__.py" and "actors" not in parts and "if TYPE_CHECKING:" not in path.read_text():
            found.append(".".join(parts))
    return found


install_import_hook(_checkable_modules(), "tests.typecheck.check")

# The same examples on every machine, and no deadline: a busy one must not fail a test.
hypothesis.settings.register_profile("l2l", derandomize=True, deadline=None)
hypothesis.settings.load_profile("l2l")


@pytest.fixture
def smoke(tmp_path: Path) -> RunConfig:
    """Give the smallest whole run, in a root of its own."""
    return smoke_config().model_copy(update={"run_root": str(tmp_path / "runs"), "name": "smoke"})


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a finished run with random weights."""
    from tests.finished_run import write_finished_run  # it imports the package, which the hook has to see first

    return write_finished_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True)
def _own_run_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every test out of the user's run root."""
    monkeypatch.setenv("L2L_HOME", str(tmp_path / "home"))


@pytest.fixture(scope="session")
def ray_local() -> Iterator[str]:
    """Give one private Ray cluster with the slots of a laptop to all tests that need one; its address.

    A fresh temporary folder and an explicit "local": an address file left by a killed cluster must not be picked up.
    """
    import ray

    from l2l_ray.actors.session import remove_folder

    folder = tempfile.mkdtemp(prefix="l2l-t-", dir="/tmp")  # short: Unix socket names are limited
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("PYTHONPATH", str(PACKAGE.parent) + os.pathsep + os.environ.get("PYTHONPATH", ""))
        ray.init(address="local", num_cpus=2, resources={"prior_gpu": 1}, dashboard_host="127.0.0.1")
        address = ray.get_runtime_context().gcs_address
        patch.setenv("RAY_ADDRESS", address)  # Ray's state API would look for any cluster of this machine
        yield address
        ray.shutdown()
    remove_folder(Path(folder))
