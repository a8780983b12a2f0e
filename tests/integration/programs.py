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


def error_of(answer):
    """The message of a refused command, which is one line and no traceback."""
    code, output = answer
    assert code == 1, output
    assert "Traceback" not in output
    *_, last = output.strip().splitlines()
    assert last.startswith("error: "), output
    return last
