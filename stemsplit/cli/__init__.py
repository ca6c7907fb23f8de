"""The command line: `stemsplit FILE...`, `stemsplit models`, `stemsplit doctor`.

Only this room prints. Errors are two lines on standard error. What nobody expected becomes two
lines as well, and a report in a file; STEMSPLIT_DEBUG=1 shows its traceback.
"""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, cast

from stemsplit.backends.process import let_idle_threads_sleep
from stemsplit.cli.wording import printable
from stemsplit.errors import StemsplitError, UnknownNameError, UsageError, nearest

COMMANDS = ("separate", "batch", "models", "prepare", "train", "eval", "export", "doctor")

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 130

_OWN_OPTIONS = ("--help", "--version", "--install-completion", "--show-completion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: What stands behind the program's name; when None the process's own arguments, and
            then the process may end here.

    Returns:
        0 all done, 1 some failed, 2 the command is wrong, 130 stopped.
    """
    if argv is not None:
        return _run_safely(list(argv))
    _prepare_process()
    status = _run_safely(sys.argv[1:])
    if "torch" in sys.modules:
        # Torch takes itself apart for 0.3 s and more; all that is to be kept has been written.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(status)
    return status


def _run_safely(argv: list[str]) -> int:
    """Run the command; whatever happens becomes an exit code and at most two lines."""
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except OutputLostError as loss:
        return _give_up_output(loss.error)
    except KeyboardInterrupt:
        _tell("stopped")
        return EXIT_STOPPED
    except StemsplitError as error:
        _tell_error(error)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except Exception as error:
        from stemsplit.batch.crash_report import contain

        if os.environ.get("STEMSPLIT_DEBUG") == "1":
            traceback.print_exc()
        _tell_error(contain(error, f"running `stemsplit {shlex.join(argv)}`"))
        return EXIT_FAILED


def _run(argv: list[str]) -> int:
    """Parse the arguments and call the command."""
    import typer

    from stemsplit.cli.program import build_program

    program = build_program()
    if "_STEMSPLIT_COMPLETE" in os.environ:
        program.main(args=argv, prog_name="stemsplit", complete_var="_STEMSPLIT_COMPLETE")
    argv = name_command(argv)
    # typer has click's exceptions under a name of its own: they are reached through the public one.
    kinds = cast("Sequence[type[Exception]]", typer.BadParameter.__mro__)
    unreadable = next(kind for kind in kinds if kind.__name__ == "UsageError")
    try:
        with program.make_context("stemsplit", argv) as context:
            status = program.invoke(context)
    except typer.Exit as ending:
        return ending.exit_code
    except unreadable as error:
        raise _translate(error) from None
    return status if isinstance(status, int) else 0


def name_command(argv: list[str]) -> list[str]:
    """Put in the command that is left out: `stemsplit FILE...`, `stemsplit models`.

    Raises:
        UsageError: The first word is neither a command nor a file.
    """
    if not argv:
        return ["--help"]
    first = argv[0]
    if first.partition("=")[0] in _OWN_OPTIONS:
        return argv
    if first in COMMANDS:
        if os.path.exists(first) and not argv[1:]:
            _tell(f"note: {first!r} is the command here; for what has that name write ./{first}")
        if first == "models" and (not argv[1:] or argv[1].startswith("-")):
            return argv if "--help" in argv else ["models", "list", *argv[1:]]
        return argv
    if first.isalpha() and not os.path.lexists(first):
        near = nearest(first, COMMANDS, 1)
        commands = f"the commands are {', '.join(COMMANDS)}."
        help = f"did you mean `stemsplit {near[0]}`?" if near else f"name a file; {commands}"
        raise UsageError(f"there is no file and no command {first!r}", help=help)
    return ["separate", *argv]


def _translate(error: Any) -> UsageError:
    """Turn what typer says of an argument into two lines.

    Args:
        error: A click `UsageError`, whichever copy of click typer uses.
    """
    command = getattr(error.ctx, "command_path", "stemsplit")
    more = f"`{command} --help` shows all."
    option = getattr(error, "option_name", None)
    kind = type(error).__name__
    if kind == "NoSuchOption":
        names = {name for item in error.ctx.command.params for name in item.opts} | {"--help"}
        known = [name for name in names if name.startswith("--")]
        return UnknownNameError("option", str(option), known, more=more)
    if kind == "MissingParameter":
        return UsageError(f"{command}: {error.param.metavar} is missing", help=more)
    message = error.format_message().rstrip(".")
    return UsageError(message[:1].lower() + message[1:], help=more)


def _tell(*lines: str) -> None:
    """Print on standard error; where that is gone as well, the exit code has to do."""
    with contextlib.suppress(OSError):
        for line in lines:
            print(line, file=sys.stderr, flush=True)


def _tell_error(error: StemsplitError) -> None:
    _tell(f"error: {printable(error.message)}", f"help: {printable(error.help)}")


class OutputLostError(Exception):
    """Standard output takes no more: its reader has gone, or its disk is full."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error)
        self.error = error


class _Output(io.TextIOWrapper):
    """Standard output whose failure is told from that of any other file."""

    def write(self, text: str) -> int:
        try:
            return super().write(text)
        except OSError as error:
            raise OutputLostError(error) from error

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            raise OutputLostError(error) from error


def _prepare_process() -> None:
    """Make standard output take any text, and keep libraries' warnings to those who ask.

    Standard error takes any text by itself.
    """
    let_idle_threads_sleep()
    if sys.stdout is None:  # It was closed before the program began.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    else:
        sys.stdout = _Output(
            sys.stdout.buffer,
            encoding=sys.stdout.encoding,
            errors="backslashreplace",
            line_buffering=sys.stdout.isatty(),
        )
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _give_up_output(error: OSError) -> int:
    """End without standard output: quietly where its reader has gone, `stemsplit ... | head`."""
    # What is still in the buffer goes nowhere, so that the end of Python is silent.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    if not isinstance(error, BrokenPipeError):
        _tell(
            f"error: standard output cannot be written: {error.strerror}",
            "help: check where it goes to, and the space there.",
        )
    return EXIT_FAILED
