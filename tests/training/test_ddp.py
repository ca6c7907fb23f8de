"""Two processes learn what one learns from both their batches."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from music import make_recipe

from stemsplit.errors import UsageError
from stemsplit.training.checkpoints import load_checkpoint
from stemsplit.training.engine import Machines, Request, train
from stemsplit.training.processes import find_launch, find_rank, is_slurm_task
from stemsplit.training.recipe_files import write_recipe
from stemsplit.training.stream import Position

ROOT = Path(__file__).parents[2]


def run_by_torchrun(words: list[str], folder: Path) -> str:
    """Return what two processes said."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    ended = subprocess.run(
        [*launcher, *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


def run_by_srun(words: list[str], folder: Path) -> str:
    """Return what two processes said that were started as srun starts tasks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    job = {"SLURM_JOB_ID": "77", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1"}
    sizes = {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"}
    tasks = [
        subprocess.Popen(
            [sys.executable, *words],
            cwd=folder,
            env={
                **os.environ,
                **job,
                **sizes,
                "SLURM_PROCID": place,
                "SLURM_LOCALID": place,
                "SLURM_NODEID": "0",
                "MASTER_PORT": str(port),
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for place in ("0", "1")
    ]
    try:
        said = [task.communicate(timeout=200)[1] for task in tasks]
    finally:
        for task in tasks:
            task.kill()
    assert [task.returncode for task in tasks] == [0, 0], said
    return "".join(said)


@pytest.mark.slow
@pytest.mark.parametrize("run", [run_by_torchrun, run_by_srun])
def test_two_processes_learn_as_one_does(
    songs: Path, tmp_path: Path, run: Callable[[list[str], Path], str]
) -> None:
    # No norm over the batch and no dropout: only the sharing could make a difference.
    shared = {"max_epochs": 2, "checkpoint_steps": 1, "log_steps": 1}
    validation = {"tracks": 1, "scores_every": 2}
    alone = make_recipe("bsrnn", training={"batch": 2, **shared}, validation=validation)
    train(Request(tmp_path / "alone", alone, songs, machines=Machines("cpu")))
    recipe = make_recipe("bsrnn", training={"batch": 1, **shared}, validation=validation)
    write_recipe(recipe, tmp_path / "half.toml")
    words = ["-m", "stemsplit", "train", "--recipe", "half.toml", "--root", str(songs), "-o", "two"]
    said = run([*words, "--device", "cpu"], tmp_path)
    # Only the first of them speaks.
    assert said.count("epoch 1: loss") == 1
    assert "cpu, 2 processes" in said
    one, two = (
        load_checkpoint(tmp_path / name / "checkpoints/last.ckpt") for name in ("alone", "two")
    )
    assert two["position"] == one["position"] == asdict(Position(2, 0, 6))
    for key, tensor in one["model"].items():
        torch.testing.assert_close(two["model"][key], tensor, rtol=1e-3, atol=1e-5)
    ours, theirs = (
        (tmp_path / name / "metrics.csv").read_text().splitlines() for name in ("two", "alone")
    )
    assert len(ours) == len(theirs) == 3
    columns = ours[0].split(",")
    for place in (columns.index("validation_loss"), columns.index("usdr_vocals")):
        left, right = (float(rows[2].split(",")[place]) for rows in (ours, theirs))
        assert left == pytest.approx(right, rel=1e-3)


@pytest.mark.parametrize(
    ("environment", "launch", "rank"),
    [
        ({}, None, 0),
        ({"RANK": "5", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}, (2, 3), 5),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "2"}, (2, 2), 3),
        # A shell in an allocation, and what torchrun starts in one.
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "2", "SLURM_JOB_NAME": "interactive"}
            | {"SLURM_NTASKS_PER_NODE": "2", "SLURM_NNODES": "1"},
            None,
            0,
        ),
        (
            {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "RANK": "1"}
            | {"LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "2"},
            (2, 1),
            1,
        ),
        # Lightning's own launcher, for the second process of the first machine.
        ({"LOCAL_RANK": "1", "NODE_RANK": "0"}, None, 1),
        ({"LOCAL_RANK": "1", "NODE_RANK": "2"}, None, 9),
    ],
)
def test_who_launched_it_is_read_from_the_environment(
    environment: dict[str, str], launch: tuple[int, int] | None, rank: int
) -> None:
    assert find_launch(environment) == launch
    assert find_rank(environment, devices=4) == rank
    assert is_slurm_task(environment) == ("SLURM_NNODES" in environment and launch is not None)


def test_tasks_that_slurm_did_not_share_out_are_refused() -> None:
    with pytest.raises(UsageError, match="2 tasks") as caught:
        find_launch({"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_NNODES": "1"})
    assert "--ntasks-per-node" in caught.value.help
