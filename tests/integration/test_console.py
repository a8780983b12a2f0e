import io

import pytest
from rich.console import Console

import richsem_prep.console
import richsem_train.console


@pytest.mark.parametrize("program", [richsem_train.console, richsem_prep.console])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_what_is_said_of_names_cannot_steer_a_terminal(program, is_terminal):
    file = io.StringIO()
    reporter = program.ConsoleReporter(Console(file=file, force_terminal=is_terminal, color_system=None))
    reporter.say("a\x1b]0;owned\x07\x9b2J\nb 猫 [red].jpg: no such file")
    assert file.getvalue() == "a\\x1b]0;owned\\x07\\x9b2J\\nb 猫 [red].jpg: no such file\n"
