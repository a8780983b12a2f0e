"""`richsem-prep` in a process of its own, for signals and kills."""

import os
import signal
import subprocess
import sys


def heed_ctrl_c():
    """Undo what a shell does to the SIGINT of its background jobs, whose children inherit it."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Command:
    """`richsem-prep` as a user starts it."""

    def __init__(self, *arguments, env=None):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "richsem_prep", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(env or {}), "COLUMNS": "120"},
            start_new_session=True,
            preexec_fn=heed_ctrl_c,
        )

    def wait(self, timeout=300):
        output, _ = self.process.communicate(timeout=timeout)
        return self.process.returncode, output

    def kill(self):
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def run(*arguments, env=None):
    return Command(*arguments, env=env).wait()
