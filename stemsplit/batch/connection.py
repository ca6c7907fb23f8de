"""The Ray cluster that a batch runs on: found, or started for it; and the room there."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from stemsplit.errors import StemsplitError, UsageError

EXTRA = 'pip install "stemsplit[ray]"'

WORKER_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_NUM_THREADS": "1"}
"""What `let_idle_threads_sleep` sets: Ray's own imports come before anything of ours."""

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # What the next version will do; the present one announces it at every start.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
_OWN = {
    **WORKER_ENVIRONMENT,
    # Ray's workers stand back behind everything else on the machine (15); the local engine does
    # not, and a song is to take as long by either.
    "RAY_worker_niceness": "0",
}
"""Of a cluster that is started here: its processes have it from this one."""

_KNOCK_S = 10.0


@dataclass(frozen=True)
class Cluster:
    """Where the workers are, and what each gets.

    Attributes:
        address: Of a cluster that runs: "host:port", "auto"; None to start one on this machine.
        workers: How many; None for as many as there is room for at the beginning.
        cpus_per_worker: Cores of each, and threads.
        gpus_per_worker: GPUs of each; 0.25 puts four workers on one.
    """

    address: str | None = None
    workers: int | None = None
    cpus_per_worker: float = 1
    gpus_per_worker: float = 0


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """Give Ray, connected to a cluster or to one that was started for this run alone.

    Raises:
        StemsplitError: It is not installed, or does not answer.
    """
    if importlib.util.find_spec("ray") is None:
        raise StemsplitError("the engine ray needs the package ray", help=f"{EXTRA} installs it.")
    for name, value in (_QUIET if cluster.address else {**_QUIET, **_OWN}).items():
        os.environ.setdefault(name, value)
    ray: Any = importlib.import_module("ray")
    with _own_signals():
        try:
            _knock(cluster.address)
            ray.init(
                address=cluster.address or "local",
                include_dashboard=None if cluster.address else False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                ignore_reinit_error=False,
            )
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise StemsplitError(
                f"there is no cluster at {cluster.address or 'this machine'!r}: {said}",
                help="check --address; `ray status` on that machine says whether it runs.",
            ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _knock(address: str | None) -> None:
    """Connect to a cluster's port once: Ray itself asks for minutes, and writes about it.

    Raises:
        OSError: Nobody answers.
    """
    host, _, port = (address or "").rpartition(":")
    if host and port.isdecimal():
        with socket.create_connection((host.rpartition("/")[2], int(port)), _KNOCK_S):
            pass


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Keep Ray from taking over what a request to end does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def list_nodes(ray: Any) -> list[Mapping[str, float]]:
    """Return the resources of every machine that is up."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def count_room(ray: Any, cluster: Cluster) -> int:
    """Return how many workers fit on the machines that are there.

    Raises:
        UsageError: Not one does.
    """
    wanted = {"CPU": cluster.cpus_per_worker, "GPU": cluster.gpus_per_worker}
    nodes = list_nodes(ray)
    count = sum(
        min(math.floor(node.get(kind, 0) / share) for kind, share in wanted.items() if share)
        for node in nodes
    )
    if not count:
        most = {kind: max((node.get(kind, 0) for node in nodes), default=0) for kind in wanted}
        raise UsageError(
            f"no machine of the cluster has {cluster.cpus_per_worker:g} cores and "
            f"{cluster.gpus_per_worker:g} GPUs for a worker; the most are {most['CPU']:g} and "
            f"{most['GPU']:g}",
            help="give --cpus-per-worker and --gpus-per-worker less, or say with --workers how "
            "many to wait for.",
        )
    return count
