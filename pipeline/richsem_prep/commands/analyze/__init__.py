"""`richsem-prep analyze`: the paper's analyses, a file a command."""

import typer

from richsem_prep.commands.analyze.frequency import frequency

analyze = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="The paper's analyses, of your own data.")

for command in (frequency,):
    analyze.command()(command)
