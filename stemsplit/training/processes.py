"""The processes that train together, and what each says to the others.

One process alone needs none of this: every function here is then free.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


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
    """Return devices per machine and machines, where torchrun or SLURM has decided them."""
    local = environment.get("LOCAL_WORLD_SIZE", "")
    world = environment.get("WORLD_SIZE", "")
    if local.isdecimal() and world.isdecimal():
        return int(local), int(world) // int(local)
    tasks = environment.get("SLURM_NTASKS_PER_NODE", "")
    nodes = environment.get("SLURM_NNODES", environment.get("SLURM_JOB_NUM_NODES", ""))
    if tasks.isdecimal() and nodes.isdecimal():
        return int(tasks), int(nodes)
    return None
