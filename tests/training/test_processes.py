"""Processes that were launched do not outlive the one that launched them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stemsplit.training.processes import (
    LAUNCHER,
    as_launcher,
    end_with_launcher,
    explain_lost_process,
)

SURVIVOR = """
import os, sys, torch
import torch.distributed as dist
from stemsplit.errors import TrainingError
from stemsplit.training.processes import explain_lost_process, gather_from_all
dist.init_process_group(
    "gloo", init_method="file://" + sys.argv[1], rank=int(sys.argv[2]), world_size=2
)
gather_from_all(1)
if sys.argv[2] == "1":
    os._exit(9)
try:
    with explain_lost_process():
        while True:
            gather_from_all(1)
except TrainingError as error:
    print(error.message)
"""
ROOT = Path(__file__).parents[2]
CHILD = """
import signal, threading
from stemsplit.training.processes import end_with_launcher
end_with_launcher()
# As where it waits for the others: no signal is heard there.
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
threading.Event().wait(60)
print("outlived", flush=True)
"""
PARENT = """
import subprocess, sys, threading
from stemsplit.training.processes import as_launcher
with as_launcher():
    subprocess.Popen([sys.executable, "-c", sys.argv[1]])
    threading.Event().wait(60)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps a dead parent's number")
def test_who_is_launched_ends_with_its_launcher() -> None:
    launcher = subprocess.Popen(
        [sys.executable, "-c", PARENT, CHILD],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "ready\n"
    launcher.send_signal(signal.SIGKILL)
    # The end of the pipe: nobody is left to write to it.
    assert launcher.stdout.read() == ""
    assert launcher.wait() == -signal.SIGKILL
    launcher.stdout.close()


def test_who_is_left_alone_says_so(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SURVIVOR, str(tmp_path / "meeting")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    other = subprocess.Popen([*command, "1"], env=environment)
    ended = subprocess.run(
        [*command, "0"], env=environment, capture_output=True, text=True, check=False, timeout=100
    )
    assert other.wait() == 9
    assert ended.stdout.startswith("another process of this training ended"), ended.stderr


def test_other_errors_are_left_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes"), explain_lost_process():
        raise RuntimeError("shapes do not fit")


def test_nobody_else_is_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(LAUNCHER, raising=False)
    before = threading.active_count()
    with as_launcher():
        assert os.environ[LAUNCHER] == str(os.getpid())
        # It does not wait for itself.
        end_with_launcher()
    assert LAUNCHER not in os.environ
    end_with_launcher()
    assert threading.active_count() == before
