"""Files for the cache of weights: packed, poisoned, and as it holds them."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def weights_of(root: Path, name: str = "model") -> dict[str, bytes]:
    """Return what the cache holds of a model's files."""
    return {path.name: path.read_bytes() for path in (root / "weights" / name).glob("*")}


def poison(path: Path, *, quietly: bool) -> None:
    """Change a byte; quietly: with the size and the time that it had."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    if quietly:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    else:
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))


def tar_of(**members: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def wheel_of(folder: Path, version: str = "1.5", **members: bytes) -> Path:
    """Make a wheel that pip accepts, of a package called stemsplit-test-weights."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"stemsplit_test_weights-{version}-py3-none-any.whl"
    info = f"stemsplit_test_weights-{version}.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        for name, content in members.items():
            wheel.writestr(f"test_weights/{name}", content)
        wheel.writestr(
            f"{info}/METADATA",
            f"Metadata-Version: 2.1\nName: stemsplit-test-weights\nVersion: {version}\n"
            "Requires-Python: <3\n",
        )
        wheel.writestr(
            f"{info}/WHEEL",
            "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path
