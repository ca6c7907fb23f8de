"""A real Ray cluster of several nodes on this machine, and what may happen to it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from linear_model import hash_tree, write_song
from tiny_model import STEMS, write_tiny_registry

from stemsplit.batch.catalogue import open_catalogue
from stemsplit.batch.cluster import run_on_cluster
from stemsplit.batch.connection import Cluster
from stemsplit.batch.job import Ending, Task, load_separator
from stemsplit.batch.local import run_catalogue
from stemsplit.errors import DecodeError
from stemsplit.separation.files import FileOptions
from stemsplit.separation.plan import Options
from stemsplit.weights.registry import Registry

pytest.importorskip("ray", reason="the extra [ray] is not installed: `make test` installs it")

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.slow,
    # Ray leaves sockets and files of the processes that it has ended to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # The other tests, which may run beside, do not go first.
    "RAY_worker_niceness": "0",
    # A node that is gone is missed after seconds, not after half a minute.
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "4",
}


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster: a head on which nothing runs, and two nodes of a core each.

    All its processes, and those of the tests, have a registry and a cache of their own.
    """
    from ray.cluster_utils import Cluster as Nodes

    own = tmp_path_factory.mktemp("own")
    # Sockets have short names only.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = {
        "num_cpus": 0,
        "temp_dir": temporary,
        "gcs_server_port": port,
        "include_dashboard": False,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.lower().endswith("_proxy") or name.startswith("RAY_"):
                patch.delenv(name)
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        # Where Ray notes the last cluster's address, in a folder that it does not make.
        patch.setenv("RAY_TMPDIR", temporary)
        Path(temporary, "ray").mkdir()
        patch.setenv("STEMSPLIT_REGISTRY", str(write_tiny_registry(own)))
        patch.setenv("STEMSPLIT_CACHE", str(own / "cache"))
        cluster = Nodes(initialize_head=True, head_node_args=head)
        try:
            cluster.add_node(num_cpus=1)
            cluster.add_node(num_cpus=1)
            yield cluster
        finally:
            cluster.shutdown()
            shutil.rmtree(temporary, ignore_errors=True)


@pytest.fixture(autouse=True)
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_songs(count: int, seconds: float = 2.0) -> None:
    for number in range(count):
        write_song(Path(f"in/{number:02d}.wav"), seconds, seed=number)


def make_task(out: str = "out", **options: Any) -> Task:
    registry = Registry.load()
    return Task(
        entry=registry.get("tiny"),
        registry=registry,
        stems=STEMS,
        options=Options(device="cpu", threads=1, **options),
        file_options=FileOptions(),
        dest=str(Path(out).absolute()),
    )


def run_here(out: str = "calm") -> dict[str, str]:
    """The same songs on this machine, undisturbed; the files with their hashes."""
    task = make_task(out)
    songs = open_catalogue("in", task.dest).read()
    stopped = threading.Event()
    for ending in run_catalogue(task, lambda: load_separator(task), songs, cancelled=stopped):
        assert ending.status == "done", ending.error
    return strip(out)


def begin_command(address: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "stemsplit", "batch", "in", "-o", "out", "--json"]
    command += ["--engine", "ray", "--address", address, "--threads", "1"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )


def strip(out: str) -> dict[str, str]:
    return {name.removeprefix(out): digest for name, digest in hash_tree(out).items()}


def find_workers() -> set[int]:
    """The processes that do songs on the nodes that this process has started."""
    found = subprocess.run(["ps", "-eo", "pid=,ppid=,args="], capture_output=True, text=True)
    lines = [line.split(maxsplit=2) for line in found.stdout.splitlines()]
    nodes = {pid for pid, parent, _ in lines if int(parent) == os.getpid()}
    return {
        int(pid)
        for pid, parent, args in lines
        if parent in nodes and args.startswith("ray::_Actor")
    }


def test_workers_and_a_node_die_and_every_song_is_done_once_as_on_one_machine(nodes: Any):
    # Long enough that whoever is killed has one in its hands, however late its driver hears.
    write_songs(11, 15.0)
    write_song(Path("in/broken.wav"), 1.0)
    Path("in/broken.wav").write_bytes(b"RIFF but not really" * 50)
    task = make_task()
    songs = open_catalogue("in", task.dest).read()
    heard: list[Ending] = []
    notes: list[str] = []
    endings = run_on_cluster(
        task, songs, Cluster(nodes.address), cancelled=threading.Event(), on_note=notes.append
    )
    for ending in endings:
        heard.append(ending)
        if len(heard) == 1:
            os.kill(find_workers().pop(), signal.SIGKILL)
        elif len(heard) == 4:
            nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
        elif len(heard) == 5:
            nodes.add_node(num_cpus=1)
    assert notes[0] == "workers: 2, machines of the cluster: 3"
    assert sum("died" in note for note in notes) >= 2
    failed = [ending for ending in heard if ending.status != "done"]
    assert [Path(one.song.name).name for one in failed] == ["broken.wav"]
    assert isinstance(failed[0].error, DecodeError)
    assert sorted(ending.song.output for ending in heard) == [
        *(f"{number:02d}" for number in range(11)),
        "broken",
    ]
    assert sum(ending.tries > 1 for ending in heard) >= 1
    Path("in/broken.wav").unlink()
    assert strip("out") == run_here()


def test_two_workers_share_a_gpu_and_no_third(nodes: Any):
    write_songs(4)
    task = make_task()
    songs = open_catalogue("in", task.dest).read()
    # What Ray counts as one; the network stays on the processor.
    node = nodes.add_node(num_cpus=4, num_gpus=1)
    cluster = Cluster(nodes.address, cpus_per_worker=1, gpus_per_worker=0.5)
    notes: list[str] = []
    try:
        endings = list(
            run_on_cluster(task, songs, cluster, cancelled=threading.Event(), on_note=notes.append)
        )
    finally:
        nodes.remove_node(node)
    assert notes == ["workers: 2, machines of the cluster: 4"]
    assert [ending.status for ending in endings] == ["done"] * 4
    assert strip("out") == run_here()


def test_the_driver_dies_and_another_goes_on(nodes: Any):
    write_songs(8)
    with begin_command(nodes.address) as first:
        assert first.stdout is not None
        for line in first.stdout:
            if '"song_done"' in line:
                first.kill()
                break
    assert first.returncode == -signal.SIGKILL
    # Its workers end a moment later, and until then files may go that have just been seen.
    ends = time.monotonic() + 30
    while find_workers() and time.monotonic() < ends:
        time.sleep(0.1)
    left = strip("out")
    with begin_command(nodes.address) as second:
        assert second.stdout is not None
        calm = run_here()
        told = [json.loads(line) for line in second.stdout]
    assert second.returncode == 0
    summary = told[-1]
    assert summary["event"] == "summary"
    assert summary["skipped"] >= 1
    assert summary["skipped"] + summary["done"] == 8
    Path("out/stemsplit-batch.json").unlink()
    done = strip("out")
    assert done == calm
    assert {name: done.get(name) for name in left if ".part/" not in name} == {
        name: digest for name, digest in left.items() if ".part/" not in name
    }
