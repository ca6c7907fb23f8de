"""Processes that were launched do not outlive the one that launched them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from stemsplit.training.processes import LAUNCHER, as_launcher, end_with_launcher

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
