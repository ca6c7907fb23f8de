"""How help is laid out: the files first, the options in groups, everything in plain text.

Plain, because it is there in a tenth of a second and reads the same in a pipe.
"""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption

from stemsplit.errors import UnknownNameError

OTHER = "More"


class Command(TyperCommand):
    """A command whose help groups its options by their `rich_help_panel`."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help included, such that they take values as typed."""
        return keep_text(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the command's name in its usage."""
        return [*_list_arguments(self), "[OPTIONS]"]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, a group after the other."""
        write_groups(self, ctx, formatter)


class Group(TyperGroup):
    """A command with commands below it."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters, --help included, such that they take values as typed."""
        return keep_text(super().get_params(ctx))

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return what stands behind the command's name in its usage."""
        return ["COMMAND", "..."]

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command that the first argument names.

        Raises:
            UnknownNameError: There is none.
        """
        if self.get_command(ctx, args[0]) is None and not ctx.resilient_parsing:
            more = f"`{ctx.command_path} --help` shows all."
            raise UnknownNameError("command", args[0], self.list_commands(ctx), more=more)
        return super().resolve_command(ctx, args)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands and the options."""
        self._write_commands(ctx, formatter)
        write_groups(self, ctx, formatter)

    def _write_commands(self, ctx: Any, formatter: Any) -> None:
        rows = []
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            assert command is not None
            usage = " ".join([name, *_list_arguments(command)])
            rows.append((usage, command.get_short_help_str(limit=80)))
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Root(Group):
    """The program itself: `stemsplit FILE...` is `stemsplit separate FILE...`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; while the shell completes a line, "separate" may be left out here."""
        if ctx.resilient_parsing and self.get_command(ctx, args[0]) is None:
            args = ["separate", *args]
        return super().resolve_command(ctx, args)

    def format_usage(self, ctx: Any, formatter: Any) -> None:
        """Write both ways to call it."""
        formatter.write_usage(ctx.command_path, "FILE... [OPTIONS]")
        formatter.write_usage(ctx.command_path, "COMMAND ...", prefix=" " * len("Usage: "))

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, the options of separating, and the program's own."""
        self._write_commands(ctx, formatter)
        separate = self.get_command(ctx, "separate")
        assert separate is not None
        write_groups(separate, ctx, formatter, leave_out=("--help",))
        write_groups(self, ctx, formatter)


class _AsTyped:
    """What typer converts a value with, converting nothing."""

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        return value


def keep_text(params: list[Any]) -> list[Any]:
    """Leave every value the text or the flag that it is.

    Newer versions of typer convert by pydantic even what needs no conversion, and importing that
    takes longer than all the rest of `stemsplit models list`. Older ones convert text to text.
    """
    for param in params:
        if hasattr(param, "get_runtime_param"):
            param.get_runtime_param = _AsTyped
    return params


def write_groups(
    command: Any, ctx: Any, formatter: Any, *, leave_out: tuple[str, ...] = ()
) -> None:
    """Write a command's options in the order of their groups' first appearance."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for option in command.get_params(ctx):
        record = option.get_help_record(ctx)
        if not isinstance(option, TyperOption) or record is None or option.opts[0] in leave_out:
            continue
        groups.setdefault(option.rich_help_panel or OTHER, []).append(record)
    for title, rows in groups.items():
        with formatter.section(title):
            formatter.write_dl(rows)


def _list_arguments(command: Any) -> list[str]:
    return [item.metavar for item in command.params if item.param_type_name == "argument"]
