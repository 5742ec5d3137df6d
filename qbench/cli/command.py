"""Print the help of commands."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand

HELP_NAMES = {"help_option_names": ["-h", "--help"]}


class PlainCommand(TyperCommand):
    """Command whose help names each argument by its metavar alone, in capitals, without a type."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the options and arguments of the usage line."""
        pieces = super().collect_usage_pieces(ctx)
        return [piece.replace("{", "").replace("}", "") for piece in pieces]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and the options, each with its help."""
        records: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is None:
                continue
            name, text = record
            if parameter.param_type_name == "argument":
                records["Arguments"].append((name.split()[0], text.replace("  [required]", "")))
            else:
                records["Options"].append((name, text))
        for title, rows in records.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
