"""The folder of one training: what it is, how far it has come, and what it has learned.

recipe.toml        every setting, resolved; itself a recipe
run.json           which data
metrics.csv        a line per epoch        steps.csv   a line every so many steps
plots/             loss.png, sdr.png
checkpoints/       last.ckpt, and the best epochs'
model/             the best epoch's weights: `stemsplit song.mp3 -m RUN` opens them
tensorboard/       where TensorBoard is logged for
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stemsplit.errors import CheckpointError, UsageError
from stemsplit.training.recipe import RecipeConfig
from stemsplit.training.recipe_files import load_recipe, write_recipe
from stemsplit.weights.disk import make_folder, translate_errors, write_text

FORMAT = 1
LAST = "last.ckpt"


class RunFolder:
    """Where everything of a run lies.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.recipe_file = self.path / "recipe.toml"
        self.origin_file = self.path / "run.json"
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / LAST
        self.model = self.path / "model"
        self.plots = self.path / "plots"
        self.metrics_file = self.path / "metrics.csv"
        self.steps_file = self.path / "steps.csv"

    def check_new(self) -> None:
        """Refuse a folder that holds a run, or something else.

        Raises:
            UsageError: There is something.
        """
        if self.recipe_file.exists():
            raise UsageError(
                f"{self.path} holds a run already",
                help=f"go on with it by --resume {self.path}, or name another folder with -o.",
            )
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            kind = "not empty" if self.path.is_dir() else "not a folder"
            raise UsageError(f"{self.path} is {kind}", help="name a new folder with -o.")

    def create(self, recipe: RecipeConfig, origin: Mapping[str, Any]) -> None:
        """Write down what is about to be trained.

        Args:
            recipe: With every value resolved.
            origin: Which data, for `read_origin`.

        Raises:
            OutputError: The place cannot be written to.
        """
        make_folder(self.path)
        write_text(self.origin_file, json.dumps({"format": FORMAT, **origin}, indent=2) + "\n")
        # The last to appear: with it, the folder is a run.
        write_recipe(recipe, self.recipe_file)

    def read_recipe(self, settings: Sequence[str] = ()) -> RecipeConfig:
        """Return the recipe that the run was begun with.

        Raises:
            UsageError: There is no run here.
        """
        if not self.recipe_file.is_file():
            raise UsageError(
                f"{self.path} holds no run: there is no {self.recipe_file.name} in it",
                help="name the folder that a training was given with -o.",
            )
        return load_recipe(self.recipe_file, settings=settings)

    def read_origin(self) -> dict[str, Any]:
        """Return which data the run was begun with.

        Raises:
            CheckpointError: That is damaged.
        """
        try:
            origin: dict[str, Any] = json.loads(self.origin_file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"{self.origin_file} cannot be read: {error}",
                help="name the data with --root once more, or train anew.",
            ) from error
        return origin

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Keep others from training into the same folder meanwhile.

        Raises:
            UsageError: Someone is.
        """
        import filelock

        missing = [folder for folder in self.path.parents if not folder.exists()]
        make_folder(self.path.parent)
        lock = filelock.FileLock(self.path.parent / f".{self.path.name}.lock")
        with translate_errors(self.path):
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                raise UsageError(
                    f"another training is writing {self.path}",
                    help="wait for it, or name another folder with -o.",
                ) from None
        try:
            yield
        finally:
            # While it is held: whoever comes now makes a new one.
            Path(lock.lock_file).unlink(missing_ok=True)
            lock.release()
            with contextlib.suppress(OSError):
                # Only those go in which nothing has come to be.
                for folder in missing:
                    folder.rmdir()


class MetricsFile:
    """A CSV file that grows by lines; after a resume no line is there twice."""

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        """Name the file.

        Args:
            path: Where it is, or will be.
            columns: Names; those of the file that is there come first.
        """
        self.path = path
        self.columns = tuple(columns)

    def read(self) -> list[dict[str, float]]:
        """Return the whole lines that are there; a value that is missing is left out."""
        if not self.path.is_file():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        found = []
        for row in rows:
            # The last line may have been cut off.
            if None in row or None in row.values():
                continue
            with contextlib.suppress(ValueError):
                found.append({key: float(value) for key, value in row.items() if value})
        return found

    def keep(self, column: str, last: float) -> None:
        """Drop the lines beyond a value: the run goes on from there.

        Raises:
            OutputError: The file cannot be written.
        """
        rows = [row for row in self.read() if row.get(column, float("inf")) <= last]
        lines = [",".join(self.columns), *(self._format(row) for row in rows)]
        write_text(self.path, "\n".join(lines) + "\n")

    def append(self, values: Mapping[str, float]) -> None:
        """Add a line.

        Raises:
            OutputError: The file cannot be written.
        """
        with translate_errors(self.path), self.path.open("a", encoding="utf-8") as file:
            if file.tell() == 0:
                file.write(",".join(self.columns) + "\n")
            file.write(self._format(values) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def _format(self, values: Mapping[str, float]) -> str:
        return ",".join(f"{values[name]:.9g}" if name in values else "" for name in self.columns)
