"""The command line: `stemsplit FILE...`, `stemsplit models`, `stemsplit doctor`.

Only this room prints. Errors are two lines on standard error. What nobody expected becomes two
lines as well, and a report in a file; STEMSPLIT_DEBUG=1 shows its traceback.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, TextIO, cast

from stemsplit.errors import StemsplitError, UnknownNameError, UsageError, nearest

COMMANDS = ("separate", "models", "doctor")
RESERVED = ("train", "prepare", "eval", "export", "batch")
"""Commands to come: a file with such a name is ./train today, so that it stays that."""

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_STOPPED = 130

_OWN_OPTIONS = ("--help", "--version", "--install-completion", "--show-completion")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Args:
        argv: What stands behind the program's name; the process's own arguments when None.

    Returns:
        0 all done, 1 some failed, 2 the command is wrong, 130 stopped.
    """
    if argv is None:
        argv = sys.argv[1:]
        _prepare_process()
    try:
        try:
            status = _run(list(argv))
            sys.stdout.flush()
        except OSError as error:
            if not _is_stdout_dead():
                raise
            return _report_dead_stdout(error)
        return status
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return EXIT_STOPPED
    except StemsplitError as error:
        _print_error(error)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except Exception as error:
        from stemsplit.batch.crash_report import contain

        if os.environ.get("STEMSPLIT_DEBUG") == "1":
            traceback.print_exc()
        _print_error(contain(error, f"running `stemsplit {shlex.join(argv)}`"))
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
            print(
                f"note: {first!r} is the command here; for what has that name write ./{first}",
                file=sys.stderr,
            )
        if first == "models" and (not argv[1:] or argv[1].startswith("-")):
            return argv if "--help" in argv else ["models", "list", *argv[1:]]
        return argv
    if first in RESERVED:
        raise UsageError(
            f"this version has no command {first!r}",
            help=f"for a file of that name write ./{first}; commands are {', '.join(COMMANDS)}.",
        )
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


def _print_error(error: StemsplitError) -> None:
    print(f"error: {error.message}", file=sys.stderr)
    print(f"help: {error.help}", file=sys.stderr, flush=True)


def _prepare_process() -> None:
    """Make the streams take any text, and keep libraries' warnings to those who ask for them."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")


def _is_stdout_dead() -> bool:
    try:
        sys.stdout.flush()
    except OSError:
        return True
    return False


def _report_dead_stdout(error: OSError) -> int:
    """Give up on standard output: quietly where its reader has gone, `stemsplit ... | head`."""
    with contextlib.suppress(OSError, ValueError):
        _redirect(sys.stdout)
    if not isinstance(error, BrokenPipeError):
        print(f"error: standard output cannot be written: {error.strerror}", file=sys.stderr)
        print("help: check where it goes to, and the space there.", file=sys.stderr)
    return EXIT_FAILED


def _redirect(stream: TextIO) -> None:
    """Send what is still in the stream's buffer nowhere, so that the end of Python is silent."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, stream.fileno())
    finally:
        os.close(nowhere)
