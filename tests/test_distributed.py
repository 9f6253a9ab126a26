"""Several processes train what one would: losses, weights, running statistics, and records."""

import pytest
import torch
import torch.nn.functional as F
from distributed_training import CASES, RECIPE, in_two, images, net, trained, write_all

from um_bench.adapters import Exposure
from um_bench.data import Loader
from um_bench.distributed import ALONE, Team


@pytest.fixture(scope="module")
def by_two(tmp_path_factory):
    """What each of two processes has of every case."""
    folder = tmp_path_factory.mktemp("two")
    assert in_two(write_all, folder) == (0, 0)
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_what_one_does(case, by_two):
    one = trained(case)
    for found in by_two:
        losses, weights, notes = found["cases"][case]
        assert losses == pytest.approx(one.losses, abs=1e-5)
        assert notes == pytest.approx(one.notes, abs=1e-5)
        for name, value in one.model.state_dict().items():
            torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_each_process_ends_with_the_same_bytes(case, by_two):
    first, second = (found["cases"][case][1] for found in by_two)
    assert all(torch.equal(first[name], second[name]) for name in first)
