"""What every test may use: the data kit, and the rules for tests that need it or a GPU."""

import os
import signal
from pathlib import Path

import pytest

# Read by torch when it is imported: one thread each, as the tests' models are tiny, and the
# processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing is kept in the user's cache; tests of what is name a folder of their own.
os.environ["UM_BENCH_CACHE"] = "0"

# A shell lets what it runs in the background ignore interrupts: those of tests have to arrive.
signal.signal(signal.SIGINT, signal.default_int_handler)

NO_KIT = "needs real images: UM_BENCH_DATA does not name their folder"


@pytest.fixture(scope="session")
def kit() -> Path:
    """The folder of real images; skips the test where there is none."""
    folder = os.environ.get("UM_BENCH_DATA")
    if not folder:
        pytest.skip(NO_KIT)
    path = Path(folder)
    if not path.is_dir():
        pytest.fail(f"UM_BENCH_DATA names {folder!r}, which is no folder")
    return path


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what this machine cannot run, and say why."""
    if item.get_closest_marker("data") and not os.environ.get("UM_BENCH_DATA"):
        pytest.skip(NO_KIT)
    if item.get_closest_marker("gpu"):
        # Not at the top: tests of the light modules would wait for torch.
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA device")
