"""Devices of processes, and collectives of one process."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from passl.distributed.ranks import Ranks, _without_flags, gpu_of
from passl.errors import ConfigError


@pytest.mark.parametrize(
    ("local_rank", "gpus", "selected", "expected"),
    [
        (0, 4, "", 0),
        (3, 4, "", 3),
        (5, 1, "", 0),  # Slurm shows each process its own
        (0, 4, "3", 3),
        (1, 4, "3", 3),  # of this process alone
        (0, 4, "2,3", 2),
        (1, 4, "2, 3", 3),
    ],
)
def test_gpu_of_a_process(local_rank, gpus, selected, expected):
    assert gpu_of(local_rank, gpus, selected) == expected


@pytest.mark.parametrize(
    ("local_rank", "gpus", "selected", "message"),
    [
        (2, 4, "0,1", "process 3 of this machine has no GPU, there are 2.*FLAGS_selected_gpus=0,1"),
        (4, 4, "", "process 5 of this machine has no GPU, there are 4"),
        (0, 2, "0,2", "FLAGS_selected_gpus=0,2: '2' is not the number of a GPU, from 0 to 1"),
        (0, 2, "0,", "'' is not the number of a GPU"),
        (0, 2, "gpu1", "'gpu1' is not the number of a GPU.*CUDA_VISIBLE_DEVICES"),
    ],
)
def test_gpu_that_does_not_exist(local_rank, gpus, selected, message):
    with pytest.raises(ConfigError, match=message):
        gpu_of(local_rank, gpus, selected)


def test_gather_with_one_process():
    arrays = {"a": np.arange(3), "b": np.zeros((0, 5), np.float32)}
    (found,) = Ranks().gather(arrays)
    assert found.keys() == arrays.keys()
    assert all(found[name] is array for name, array in arrays.items())
    assert Ranks().gather_texts(["x", "caf\udce9"]) == [["x", "caf\udce9"]]


def test_only_the_list_of_flags_is_removed_from_stderr(capsys):
    """Also when an error is raised."""
    listed = (
        f"{'=' * 23} Modified FLAGS detected {'=' * 23}\nFLAGS(name='a', value=1)\n{'=' * 71}\n"
    )
    with pytest.raises(ValueError, match="broken"), _without_flags():
        sys.stderr.write(f"before\n{listed}after\n")
        raise ValueError("broken")
    assert capsys.readouterr().err == "before\nafter\n"
