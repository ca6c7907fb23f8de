"""The words on the command line: which command is meant, what is refused, and how it is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stemsplit import __version__
from stemsplit.cli import COMMANDS, main, name_command
from stemsplit.cli.arguments import CLIP_MODES, FORMATS
from stemsplit.cli.values import PRECISIONS

ROOT = Path(__file__).parents[2]


def fail(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Run, and return the exit code and the two lines."""
    status = main(arguments)
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2, said
    assert said[0].startswith("error: ")
    assert said[1].startswith("help: ")
    return status, said[0].removeprefix("error: "), said[1].removeprefix("help: ")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (["song.mp3"], ["separate", "song.mp3"]),
        (["-m", "x", "song.mp3"], ["separate", "-m", "x", "song.mp3"]),
        (["--json", "a.wav"], ["separate", "--json", "a.wav"]),
        (["-"], ["separate", "-"]),
        (["--", "-x.wav"], ["separate", "--", "-x.wav"]),
        (["./models"], ["separate", "./models"]),
        (["./train"], ["separate", "./train"]),
        (["separate", "a.wav"], ["separate", "a.wav"]),
        (["batch", "in"], ["batch", "in"]),
        (["models"], ["models", "list"]),
        (["models", "--json"], ["models", "list", "--json"]),
        (["models", "--help"], ["models", "--help"]),
        (["models", "info", "x"], ["models", "info", "x"]),
        (["doctor"], ["doctor"]),
        ([], ["--help"]),
        (["--help"], ["--help"]),
        (["--version"], ["--version"]),
        (["*.mp3"], ["separate", "*.mp3"]),
    ],
)
def test_the_command_may_be_left_out(home: Path, given: list[str], meant: list[str]) -> None:
    assert name_command(given) == meant


def test_a_bare_word_that_exists_is_a_file(home: Path) -> None:
    (home / "album").mkdir()
    assert name_command(["album"]) == ["separate", "album"]


def test_a_file_named_like_a_command_is_pointed_out(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "models").touch()
    assert name_command(["models"]) == ["models", "list"]
    assert capsys.readouterr().err == (
        "note: 'models' is the command here; for what has that name write ./models\n"
    )
    name_command(["models", "list"])
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "message", "help"),
    [
        (["modles"], "there is no file and no command 'modles'", "stemsplit models"),
        (
            ["zzzz"],
            "there is no file and no command 'zzzz'",
            "separate, batch, models, prepare, train",
        ),
        (["models", "lst"], "there is no command 'lst'", "list"),
        (["models", "info"], "NAME is missing", "models info --help"),
        (["models", "import", "tiny"], "FILE... is missing", "models import --help"),
        (["models", "info", "tyni"], "there is no model 'tyni'", "tiny"),
        (["doctor", "x"], "extra argument", "doctor --help"),
        (["a.wav", "--modle", "x"], "there is no option '--modle'", "--model"),
        (["a.wav", "-Z"], "there is no option '-Z'", "--help"),
        (["a.wav", "-m"], "option '-m' requires an argument", "--help"),
        (["a.wav", "--json=1"], "option '--json' does not take a value", "--help"),
        (["--stems", "vocals"], "there is no file to separate", "song.mp3"),
        (["nope.wav"], "there is no file 'nope.wav'", "a.wav"),
        (["a.wav", "-m", "tinny"], "there is no model 'tinny'", "tiny"),
        (["a.wav", "--stems", "vocal"], "there is no stem 'vocal'", "vocals"),
        (["a.wav", "--two-stems", "voclas"], "there is no stem 'voclas'", "vocals"),
        (["a.wav", "--stems", ","], "no stem was asked for", "vocals, accompaniment"),
        (["a.wav", "--two-stems", "vocals", "--residual"], "already says", "--residual"),
        (["a.wav", "--format", "mp4"], "there is no format 'mp4'", "mp3"),
        (["a.wav", "--bits", "20"], "wav cannot have 20 bits", "16"),
        (["a.wav", "--bits", "x"], "--bits 'x' is not possible", "a whole number from 1"),
        (["a.wav", "--bits", "2.5"], "--bits '2.5' is not possible", "a whole number"),
        (["a.wav", "--bitrate", "9"], "wav has no bit rate", "mp3"),
        (["a.wav", "--format", "mp3", "--bitrate", "9999"], "9999 kbit/s", "320"),
        (["a.wav", "--clip", "lamp"], "there is no clip mode 'lamp'", "clamp"),
        (["a.wav", "--precision", "fp23"], "there is no precision 'fp23'", "fp32"),
        (["a.wav", "--backend", "tourch"], "there is no backend 'tourch'", "torch"),
        (["a.wav", "--threads", "0"], "--threads '0' is not possible", "from 1"),
        (["a.wav", "--batch-size", "0"], "--batch-size '0' is not possible", "from 1"),
        (["a.wav", "--device", "cudda"], "there is no device 'cudda'", "cuda"),
        (["a.wav", "--device", "cuda:x"], "there is no device 'cuda:x'", "cuda:0"),
        (["a.wav", "--framing", "orignal"], "there is no framing 'orignal'", "original"),
        (["a.wav", "--overlap", "0.8"], "--overlap '0.8'", "from 0 to 0.75"),
        (["a.wav", "--overlap", "nan"], "--overlap 'nan'", "from 0 to 0.75"),
        (["a.wav", "--segment", "0"], "--segment '0'", "above 0"),
        (["a.wav", "--segment", "inf"], "--segment 'inf'", "above 0"),
        (["a.wav", "--shifts", "-1"], "--shifts '-1'", "from 0"),
        (["a.wav", "--jobs", "0"], "--jobs '0'", "from 1"),
        (["a.wav", "--wiener", "two"], "--wiener 'two'", "from 0"),
        (["a.wav", "--stream", "-1"], "--stream '-1'", "from 0"),
        (["a.wav", "--start", "1:75"], "--start '1:75' is not a time", "m:ss"),
        (["a.wav", "--duration", "soon"], "--duration 'soon' is not a time", "m:ss"),
        (["a.wav", "--duration", "0"], "--duration 0.0 is not possible", "more than 0"),
        (["a.wav", "--filename", "{foo}"], "there is no template field 'foo'", "stem"),
        (["a.wav", "--filename", "x.wav"], "the same name", "{stem}"),
        (["a.wav", "--filename", "../{stem}"], "inside the output folder", "-o"),
        (["a.wav", "--registry", "no.toml"], "no.toml", "TOML"),
    ],
)
def test_what_cannot_be_is_refused_in_two_lines(
    home: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
    help: str,
) -> None:
    (home / "a.wav").write_bytes(b"not even looked at")
    status, said, helped = fail(capsys, *arguments)
    assert status == 2
    assert message in said
    assert help in helped
    assert [path.name for path in home.iterdir()] == ["a.wav"], "nothing is written"


def test_control_characters_of_a_name_do_not_reach_the_terminal(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, message, _ = fail(capsys, "a\x1b[31m\nb.wav")
    assert "\\x1b[31m\\nb.wav" in message


def test_help_shows_every_option_and_command(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert main([]) == 0
    assert capsys.readouterr().out == said
    for word in ("FILE...", *COMMANDS, "--two-stems", "--stem-mp4", "--registry", "--version"):
        assert word in said
    assert "Traceback" not in said
    assert "<str>" not in said


@pytest.mark.parametrize("command", ["separate", "models", "doctor", "models info", "models list"])
def test_every_command_has_help(
    home: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert main([*command.split(), "--help"]) == 0
    assert capsys.readouterr().out.startswith(f"Usage: stemsplit {command} ")


def test_version(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"stemsplit {__version__}\n"


def test_the_help_names_the_values_that_there_are() -> None:
    from stemsplit.audio import formats
    from stemsplit.backends.torch_core import PRECISIONS as NUMBERS
    from stemsplit.separation import levels

    assert formats.FORMATS == FORMATS
    assert levels.CLIP_MODES == CLIP_MODES
    assert ("auto", *NUMBERS) == PRECISIONS


def test_what_nobody_expected_is_two_lines_and_a_report(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(*arguments: object) -> None:
        raise ZeroDivisionError("the moon\nis full")

    monkeypatch.setattr("stemsplit.weights.registry.Registry.load", explode)
    status, message, help = fail(capsys, "models", "list")
    assert status == 1
    assert "ZeroDivisionError: the moon" in message
    text = Path(help.split("'")[1]).read_text()
    assert "Traceback" in text
    assert "running `stemsplit models list`" in text

    monkeypatch.setenv("STEMSPLIT_DEBUG", "1")
    assert main(["models", "list"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_ctrl_c_anywhere_is_130(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("stemsplit.weights.registry.Registry.load", interrupt)
    assert main(["models", "list"]) == 130
    assert capsys.readouterr().err == "stopped\n"


LIGHT = [
    ["--help"],
    ["--version"],
    ["models", "list"],
    ["models", "list", "--json"],
    ["models", "info", "umxhq"],
    ["models", "verify"],
    ["models", "path"],
    ["a.wav", "--stems", "vocal"],
    ["a.wav", "--dry-run"],
]


def test_nothing_heavy_is_imported_before_it_is_needed(home: Path) -> None:
    (home / "a.wav").write_bytes(b"not even looked at")
    code = f"""
import json, sys
from stemsplit.cli import main
for arguments in {LIGHT!r}:
    main(arguments)
    heavy = [m for m in ("torch", "pydantic", "rich", "huggingface_hub") if m in sys.modules]
    print("heavy:", json.dumps([arguments, heavy]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    told = [line for line in done.stdout.splitlines() if line.startswith("heavy: ")]
    found = [json.loads(line.removeprefix("heavy: ")) for line in told]
    assert found == [[arguments, []] for arguments in LIGHT]


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("mo", "models"),
        ("models in", "info"),
        ("models info ti", "tiny"),
        ("song.mp3 --two", "--two-stems"),
        ("song.mp3 -m ti", "tiny"),
        ("separate song.mp3 --ove", "--overlap"),
    ],
)
def test_a_shell_can_complete_the_line(home: Path, words: str, found: str) -> None:
    line = f"stemsplit {words}"
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "_STEMSPLIT_COMPLETE": "complete_bash",
        "COMP_WORDS": line,
        "COMP_CWORD": str(len(line.split()) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "stemsplit"], capture_output=True, text=True, env=env, check=False
    )
    assert done.stderr == ""
    assert found in done.stdout.split()
