"""Both programs in this process, as a user types them."""

import sys
from unittest.mock import patch


def call(program, name, *arguments):
    """The exit code of a command line.

    Args:
        program: its module `cli`.
        name: as the shell knows it.
        arguments: of the command line.
    """
    with patch.object(sys, "argv", [name, *map(str, arguments)]):
        try:
            program.run()
        except SystemExit as ended:
            return ended.code or 0
    return 0
