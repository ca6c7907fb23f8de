"""ONNX's runtime gives what torch gives, for every architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from random_weights import build_tiny

from stemsplit.backends.onnx_graph import save_onnx
from stemsplit.models.catalogue import ARCHITECTURES
from stemsplit.separation.cores import make_examples

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
@torch.no_grad()
def test_it_gives_what_torch_gives(name: str, tmp_path: Path) -> None:
    model = build_tiny(name, ("vocals", "drums"))
    examples = make_examples(model, any_length=not model.chunk.fixed)
    expected = [model.run_core(example) for example in examples]

    difference = save_onnx(model.core, examples, expected, tmp_path / "graph.onnx")

    assert difference < 1e-4
    assert (tmp_path / "graph.onnx").stat().st_size > 1000
