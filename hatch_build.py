"""Compile the layers in C while the package is built, where there is a compiler.

Each kind of vectors of the processor's family gets a library of its own; which one is loaded is
decided where the program runs. Without a compiler the package is complete, and slower.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("stemsplit", "backends", "native")
SOURCES = tuple(
    FOLDER / name
    for name in ("convolution.c", "dense.c", "matrices.c", "patches.c", "planes.c", "rows.c")
)
FLAGS = ("-std=gnu11", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-psabi")
X86 = {
    "avx2": ("-DLANES=8", "-DREGISTERS=16", "-mavx2", "-mfma"),
    "avx512": ("-DLANES=16", "-DREGISTERS=32", "-mavx512f", "-mfma", "-mprefer-vector-width=512"),
    # Half as long: some processors take a long vector in two steps, and short ones fill better.
    "avx512vl": ("-DLANES=8", "-DREGISTERS=32", "-mavx512vl", "-mfma", "-mprefer-vector-width=256"),
}
ARM = {"neon": ("-DLANES=4", "-DREGISTERS=32")}
VARIANTS = {"x86_64": X86, "amd64": X86, "aarch64": ARM, "arm64": ARM}


def find_compiler() -> list[str] | None:
    """Return the command of $CC, or of the first C compiler on PATH; None where there is none."""
    if os.environ.get("CC"):
        return shlex.split(os.environ["CC"])
    found = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    return None if found is None else [found]


def compile_libraries(root: Path) -> dict[str, str]:
    """Compile every library for this machine.

    Args:
        root: Where the project lies.

    Returns:
        What went wrong, by the library's name; empty where all is well.
    """
    variants = VARIANTS.get(platform.machine().lower(), {})
    compiler = find_compiler()
    if compiler is None:
        return dict.fromkeys(variants, "there is no C compiler")
    failed = {}
    for name, flags in variants.items():
        target = root / FOLDER / f"convolution-{name}.so"
        part = target.with_suffix(".part")
        command = [*compiler, *FLAGS, *flags, *(str(root / one) for one in SOURCES)]
        command += ["-o", str(part)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)
            part.replace(target)
        except (OSError, subprocess.CalledProcessError) as error:
            failed[name] = (getattr(error, "stderr", "") or str(error)).strip()
            part.unlink(missing_ok=True)
            target.unlink(missing_ok=True)
    return failed


class NativeConvolutions(BuildHookInterface):  # type: ignore[type-arg]  # hatchling's own is generic in its configuration, which nothing here reads
    """Put the libraries into the wheel, or beside the sources where these are installed."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and name the wheel after the platform if there is something to put in."""
        root = Path(self.root)
        for name, reason in compile_libraries(root).items():
            self.app.display_warning(f"convolution-{name} was not compiled: {reason}")
        if not list((root / FOLDER).glob("*.so")):
            return
        build_data["artifacts"].append(f"{FOLDER.as_posix()}/*.so")
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )
