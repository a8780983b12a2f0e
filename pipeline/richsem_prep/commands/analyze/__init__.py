"""`richsem-prep analyze`: the paper's analyses, a file a command."""

import typer

from richsem_prep.commands.analyze.frequency import frequency
from richsem_prep.commands.analyze.location_noise import location_noise
from richsem_prep.commands.analyze.zero_shot import zero_shot

analyze = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="The paper's analyses, of your own data.")

for command in (frequency, zero_shot, location_noise):
    analyze.command()(command)
