"""The public functions, as a person would call them."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from linear_model import LinearModel

import stemsplit
from stemsplit.errors import UnknownNameError
from stemsplit.separation.events import Finished


def test_an_array_and_a_model_of_ones_own(capsys: pytest.CaptureFixture[str]) -> None:
    mixture = torch.randn(2, 50_000, generator=torch.Generator().manual_seed(0))
    events: list[object] = []
    stems = stemsplit.separate(
        mixture, LinearModel(), stems=("vocals",), on_event=events.append, progress=True
    )
    torch.testing.assert_close(stems["vocals"], 0.3 * mixture)
    assert isinstance(events[-1], Finished)
    assert "s/s" in capsys.readouterr().err
    assert "vocals" in stemsplit.separate(mixture, LinearModel())
    assert capsys.readouterr().err == ""


def test_the_models_that_there_are() -> None:
    names = [entry.name for entry in stemsplit.list_models()]
    assert {"spleeter-2stems", "umx", "umxhq", "umxl"} <= set(names)


def test_a_model_that_there_is_not() -> None:
    with pytest.raises(UnknownNameError, match="spleeter-2stems"):
        stemsplit.load_model("spleeter-2stem")


def test_every_public_name_is_there_and_importing_is_free() -> None:
    for name in stemsplit.__all__:
        assert getattr(stemsplit, name) is not None
    with pytest.raises(AttributeError, match="seperate"):
        _ = stemsplit.seperate  # type: ignore[attr-defined]  # a typo is the point
    script = "import stemsplit, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
