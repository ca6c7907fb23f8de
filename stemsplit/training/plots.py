"""A training as pictures: how the losses and the scores went, epoch by epoch."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from stemsplit.weights.disk import make_folder, translate_errors

Rows = Sequence[Mapping[str, float]]
WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 7.0, 4.0, 110


def plot_run(rows: Rows, folder: Path) -> None:
    """Draw loss.png and, where tracks were scored, sdr.png; each whole or not at all.

    Args:
        rows: The lines of metrics.csv.
        folder: Where to.

    Raises:
        OutputError: The place cannot be written to.
    """
    losses = {"train_loss": "training", "validation_loss": "validation"}
    _plot(rows, losses, "loss", folder / "loss.png", is_log=True)
    names = sorted({key for row in rows for key in row if key.startswith("usdr_")})
    if names:
        stems = {key: key.removeprefix("usdr_") for key in names}
        _plot(rows, stems, "uSDR of validation tracks (dB)", folder / "sdr.png", is_log=False)


def _plot(rows: Rows, lines: Mapping[str, str], label: str, path: Path, *, is_log: bool) -> None:
    # Figures of their own, without pyplot: nothing of the process's matplotlib is changed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES))
    FigureCanvasAgg(figure)
    # Margins by hand: having them computed takes longer than all the rest.
    axes = figure.add_axes((0.16, 0.13, 0.81, 0.83))
    drawn = []
    for key, name in lines.items():
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        drawn += [value for _, value in points]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker="." if len(points) < 30 else "", label=name
            )
    if is_log and drawn and min(drawn) > 0:
        axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    if drawn:
        axes.legend()
    content = io.BytesIO()
    figure.savefig(content, dpi=DOTS_PER_INCH, format="png")
    make_folder(path.parent)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with translate_errors(path):
            part.write_bytes(content.getvalue())
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
