"""`stemsplit doctor`: every finding, and that nothing broken stops it."""

from __future__ import annotations

import builtins
import json
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest

from stemsplit.cli import main

Usage = namedtuple("Usage", "total used free")


def examine(capsys: pytest.CaptureFixture[str], status: int) -> dict[str, dict[str, str]]:
    """Run it, and return the findings by name."""
    assert main(["doctor", "--json"]) == status
    told = json.loads(capsys.readouterr().out)
    findings = {finding["name"]: finding for finding in told["findings"]}
    assert told["problems"] == sum(f["state"] == "problem" for f in findings.values())
    for finding in findings.values():
        assert finding["state"] in ("ok", "warning", "problem")
        assert finding["found"]
        assert (finding["state"] == "ok") == (finding["mend"] == ""), "what is wrong can be mended"
    return findings


def test_a_healthy_machine(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    findings = examine(capsys, 0)
    expected = {
        "stemsplit", "python", "ffmpeg", "cache", "cache's disk", "this folder's disk", "registry",
        "default model", "downloads", "pip", "torch", "cpu",
    }  # fmt: skip
    assert expected <= set(findings)
    assert findings["default model"]["state"] == "ok"
    assert "tiny.toml" in findings["registry"]["found"]


def test_in_words(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok       stemsplit: ")
    assert lines[-1] == "all is well"


def test_no_ffmpeg(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMSPLIT_FFMPEG", str(home / "nowhere"))
    findings = examine(capsys, 1)
    assert findings["ffmpeg"]["state"] == "problem"
    assert findings["torch"]["state"] == "ok", "the rest is looked at all the same"
    assert main(["doctor"]) == 1
    assert "problem  ffmpeg: " in capsys.readouterr().out


@pytest.mark.parametrize("kind", [ImportError, OSError, AttributeError])
def test_a_broken_torch_is_a_finding(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
) -> None:
    real = builtins.__import__

    def fail(name: str, *rest: Any) -> Any:
        if name == "torch":
            raise kind("libcudart.so.99: cannot open\nand more")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", fail)
    finding = examine(capsys, 1)["torch"]
    assert finding["found"] == f"import torch: {kind.__name__}: libcudart.so.99: cannot open"
    assert "pip install" in finding["mend"]


def test_a_backend_that_is_none(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMSPLIT_BACKEND", "torhc")
    found = examine(capsys, 1)["openvino"]
    assert (found["state"], found["found"]) == (
        "problem",
        "STEMSPLIT_BACKEND is 'torhc', and there is no such backend",
    )


def test_the_backend_that_is_taken_without_openvino(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stemsplit.backends.openvino_core.is_installed", lambda: False)
    for variable, taken in (("", "torch"), ("compile", "compile")):
        monkeypatch.setenv("STEMSPLIT_BACKEND", variable)
        found = examine(capsys, 0)["openvino"]["found"]
        assert f"--backend auto takes {taken}." in found


def test_a_cache_that_cannot_be_written_to(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").touch()
    monkeypatch.setenv("STEMSPLIT_CACHE", str(home / "file"))
    finding = examine(capsys, 1)["cache"]
    assert finding["state"] == "problem"
    assert "STEMSPLIT_CACHE" in finding["mend"]


def test_a_registry_that_is_none(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "bad.toml").write_text("[modles.x]\n")
    monkeypatch.setenv("STEMSPLIT_REGISTRY", str(home / "bad.toml"))
    finding = examine(capsys, 1)["registry"]
    assert "modles" in finding["found"]
    assert "models" in finding["mend"]


def test_a_disk_that_is_nearly_full(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**12, 10**12, 10**6))
    findings = examine(capsys, 0)
    assert findings["cache's disk"]["state"] == "warning"
    assert findings["cache's disk"]["found"] == "1.0 MB free"


def test_offline_with_and_without_the_default_model(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STEMSPLIT_REGISTRY", "")
    assert examine(capsys, 0)["default model"]["state"] == "warning"
    monkeypatch.setenv("STEMSPLIT_OFFLINE", "1")
    findings = examine(capsys, 1)
    assert findings["default model"]["state"] == "problem"
    assert findings["downloads"]["state"] == "warning"


def test_no_pip(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "pip" else real(name)
    )
    assert examine(capsys, 0)["pip"]["state"] == "warning"


def test_a_check_that_breaks_is_a_finding(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> None:
        raise ZeroDivisionError("the moon")

    monkeypatch.setattr("stemsplit.audio.find_ffmpeg", explode)
    assert examine(capsys, 1)["ffmpeg"]["found"] == "ZeroDivisionError: the moon"


@pytest.mark.parametrize(("variable", "state"), [("0", "ok"), ("", "warning")])
def test_convolutions_that_are_not_ours(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    state: str,
) -> None:
    monkeypatch.setattr("stemsplit.backends.native.library.find_library", lambda: None)
    monkeypatch.setenv("STEMSPLIT_NATIVE", variable)
    assert examine(capsys, 0)["convolutions"]["state"] == state
