"""Settings of a whole process."""

from __future__ import annotations

import ctypes
import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from stemsplit.backends import process

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux's /proc")

LIBRARY = """\
7f0000000000-7f0000400000 {mode} 00001000 fe:00 77 {path}
Size:               4096 kB
Rss:                {resident} kB
Pss:                 100 kB
Anonymous:          {written} kB
VmFlags: rd ex mr mw me
"""


def describe(
    mode: str = "r-xp", path: str = "/lib/some.so", resident: int = 2048, written: int = 0
) -> str:
    return LIBRARY.format(mode=mode, path=path, resident=resident, written=written)


def test_code_that_is_as_its_file_has_it_is_found() -> None:
    other = describe(path="/lib/with a space.so").replace("7f00", "7e00")

    found = list(process._find_code(describe() + other))

    assert found == [(0x7F0000000000, 0x7F0000400000), (0x7E0000000000, 0x7E0000400000)]


@pytest.mark.parametrize(
    "kept",
    [
        {"mode": "rw-p"},
        {"mode": "r--p"},
        {"mode": "rwxp"},
        {"written": 4},
        {"resident": 64},
        {"path": ""},
        {"path": "[vdso]"},
    ],
    ids=str,
)
def test_what_would_be_lost_or_is_little_stays(kept: dict[str, object]) -> None:
    assert list(process._find_code(describe(**kept))) == []  # type: ignore[arg-type]  # of each


@ON_LINUX
def test_code_that_was_written_to_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "code").write_bytes(bytes(2 << 20))
    with (tmp_path / "code").open("r+b") as file:
        code = mmap.mmap(file.fileno(), 2 << 20, flags=mmap.MAP_PRIVATE)
    code[:] = b"x" * len(code)
    place = ctypes.addressof(ctypes.c_char.from_buffer(code))
    libc = ctypes.CDLL(None)
    libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    if libc.mprotect(place, len(code), mmap.PROT_READ | mmap.PROT_EXEC) != 0:
        pytest.skip("this machine does not let written pages be code")

    process.let_go_of_code()

    assert code[:] == b"x" * len(code)


@ON_LINUX
def test_after_its_import_torch_is_whole_and_most_of_its_code_let_go() -> None:
    program = """
import re
from pathlib import Path
from stemsplit.backends import process

def resident() -> int:
    return int(re.search(r"RssFile:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

let_go, process.let_go_of_code = process.let_go_of_code, lambda: None
process.import_torch()
before = resident()
let_go()
after = resident()
import torch
assert torch.fft.rfft(torch.ones(8))[0] == 8
print(before, after)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )

    before, after = map(int, done.stdout.split())
    assert after < before / 2
