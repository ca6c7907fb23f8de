"""The processes that train together, and what each says to the others.

One process alone needs none of this: every function here is then free.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from stemsplit.errors import TrainingError, UsageError

LAUNCHER = "STEMSPLIT_LAUNCHER"
"""The variable by which a process tells those that it launches its number."""

WATCH_EVERY_S = 0.5


def is_together() -> bool:
    """Return whether there are several processes, and they know of each other."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def sum_over_all(values: Tensor, device: torch.device) -> Tensor:
    """Return the sum of a tensor over all processes.

    Args:
        values: On the CPU.
        device: Where the processes speak to each other from.
    """
    if not is_together():
        return values
    total = values.to(device)
    dist.all_reduce(total)
    return total.cpu()


def gather_from_all(value: Any) -> list[Any]:
    """Return a value of each process, in the order of their ranks."""
    if not is_together():
        return [value]
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def find_rank(environment: Mapping[str, str] = os.environ, devices: int = 1) -> int:
    """Return this process's number before the processes know of each other.

    torchrun, SLURM and Lightning's own launcher each leave it in the environment.

    Args:
        environment: Of the process.
        devices: How many each machine has.
    """
    for name in ("RANK", "SLURM_PROCID"):
        if environment.get(name, "").isdecimal():
            return int(environment[name])
    local, node = (environment.get(name, "") for name in ("LOCAL_RANK", "NODE_RANK"))
    place = int(local) if local.isdecimal() else 0
    return place + devices * int(node) if node.isdecimal() else place


def find_launch(environment: Mapping[str, str] = os.environ) -> tuple[int, int] | None:
    """Return devices per machine and machines, where torchrun or SLURM has decided them.

    Raises:
        UsageError: SLURM started several tasks and does not say how many on each machine.
    """
    local = environment.get("LOCAL_WORLD_SIZE", "")
    world = environment.get("WORLD_SIZE", "")
    if local.isdecimal() and world.isdecimal():
        return int(local), int(world) // int(local)
    if not is_slurm_task(environment):
        return None
    tasks = environment.get("SLURM_NTASKS_PER_NODE", "")
    nodes = environment.get("SLURM_NNODES", environment.get("SLURM_JOB_NUM_NODES", ""))
    if tasks.isdecimal() and nodes.isdecimal():
        return int(tasks), int(nodes)
    all_tasks = environment.get("SLURM_NTASKS", "")
    if all_tasks.isdecimal() and int(all_tasks) > 1:
        raise UsageError(
            f"SLURM started {all_tasks} tasks and does not say how many on each machine",
            help="give srun --nodes and --ntasks-per-node, in place of --ntasks.",
        )
    return None


def is_slurm_task(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether srun started this process as one of those that train together.

    A shell in an allocation has SLURM's variables as well, and so has what torchrun starts there.
    """
    is_shell = environment.get("SLURM_JOB_NAME") in ("bash", "interactive")
    return "SLURM_PROCID" in environment and "RANK" not in environment and not is_shell


@contextlib.contextmanager
def explain_lost_process() -> Iterator[None]:
    """Say which is to blame where torch only says that a connection is gone.

    Raises:
        TrainingError: Another process ended, or cannot be reached.
    """
    try:
        yield
    except RuntimeError as error:
        words = str(error)
        # Gloo raises a plain RuntimeError, told by the place in its own code.
        if not isinstance(error, dist.DistError) and "gloo/transport" not in words:
            raise
        said = words.splitlines()[0]
        raise TrainingError(
            f"another process of this training ended, or cannot be reached: {said}",
            help="see what it said last, and go on with --resume.",
        ) from error


@contextlib.contextmanager
def as_launcher() -> Iterator[None]:
    """Tell the processes that are launched meanwhile whose end is theirs."""
    os.environ[LAUNCHER] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(LAUNCHER, None)


def end_with_launcher() -> None:
    """End this process when the one that launched it has gone, in whatever way.

    One that was killed cannot say so, and this one may wait for it where it hears no signal.
    """
    launcher = os.environ.get(LAUNCHER, str(os.getpid()))
    if launcher == str(os.getpid()):
        return

    def watch() -> None:
        while str(os.getppid()) == launcher:
            time.sleep(WATCH_EVERY_S)
        os._exit(1)

    threading.Thread(target=watch, name="launcher", daemon=True).start()
