from __future__ import annotations

from pathlib import Path

import pytest
from music import make_recipe

from stemsplit.errors import OutputError, UsageError
from stemsplit.training.export import name_model
from stemsplit.training.plots import plot_run
from stemsplit.training.run_folder import MetricsFile, RunFolder


def test_lines_beyond_the_checkpoint_are_dropped_with_what_a_kill_left(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv", ["epoch", "loss", "usdr"])
    metrics.append({"epoch": 0, "loss": 0.125})
    metrics.append({"epoch": 1, "loss": 1 / 3, "usdr": 5.5})
    metrics.append({"epoch": 2, "loss": 0.1})
    with metrics.path.open("a") as file:
        file.write("3,0.")
    assert metrics.read() == [
        {"epoch": 0, "loss": 0.125},
        {"epoch": 1, "loss": 0.333333333, "usdr": 5.5},
        {"epoch": 2, "loss": 0.1},
    ]
    metrics.keep("epoch", 1)
    metrics.append({"epoch": 2, "loss": 0.2})
    assert metrics.path.read_text().splitlines() == [
        "epoch,loss,usdr", "0,0.125,", "1,0.333333333,5.5", "2,0.2,",
    ]  # fmt: skip


def test_a_file_that_is_not_there_has_no_lines(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.csv", ["epoch"])
    assert metrics.read() == []
    metrics.keep("epoch", 5)
    assert metrics.path.read_text() == "epoch\n"


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    RunFolder(tmp_path / "new").check_new()
    (tmp_path / "empty").mkdir()
    RunFolder(tmp_path / "empty").check_new()
    (tmp_path / "full").mkdir()
    (tmp_path / "full/letter.txt").touch()
    (tmp_path / "file").touch()
    for name, message in (("full", "is not empty"), ("file", "is not a folder")):
        with pytest.raises(UsageError, match=message):
            RunFolder(tmp_path / name).check_new()


def test_a_lock_leaves_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    with run.lock():
        assert [path.name for path in tmp_path.iterdir()] == [".run.lock"]
    assert list(tmp_path.iterdir()) == []
    with run.lock():
        pass


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"):
        RunFolder(tmp_path / "file/run").create(make_recipe("open-unmix"), {})


@pytest.mark.parametrize(
    ("folder", "name"),
    [("Vocals 3", "vocals-3"), ("..", "own"), ("ÄÖ", "own"), ("_x.y_", "x.y"), ("a b!", "a-b")],
)
def test_a_run_s_name_becomes_a_model_s(folder: str, name: str) -> None:
    assert name_model(Path(folder)) == name


def test_pictures_leave_matplotlib_as_it_was(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    rows = [{"epoch": epoch, "train_loss": 1 / (epoch + 1)} for epoch in range(40)]
    plot_run(rows, tmp_path)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "sdr.png").exists()
    plot_run([{**row, "usdr_vocals": -1.0} for row in rows], tmp_path)
    assert (tmp_path / "sdr.png").stat().st_size > 1000
    assert dict(matplotlib.rcParams) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", "sdr.png"]


def test_a_picture_of_nothing_is_no_error(tmp_path: Path) -> None:
    plot_run([], tmp_path)
    assert (tmp_path / "loss.png").exists()
