"""`richsem-train` in this process, as a user types it."""

import json
from unittest.mock import patch

from richsem_train import cli
from tests.integration.programs import call


class TrainCommand:
    """Calls the command and remembers what it printed last."""

    def __init__(self, capsys, world, folder):
        self._capsys = capsys
        self.world = world
        self.folder = folder
        self.out = folder / "out"
        self.code, self.stdout, self.stderr = 0, "", ""

    def __call__(self, *arguments):
        """The exit code."""
        self._capsys.readouterr()
        self.code = call(cli, "richsem-train", *arguments)
        self.stdout, self.stderr = self._capsys.readouterr()
        return self.code

    def train(self, *arguments, **changes):
        """Train on the tiny world; the curves, which take long to draw, are left out."""
        config = self.world.write_config(self.folder / "tiny.yaml", **changes)
        with patch("richsem_train.results.plots.plot_run"):
            return self("--config", config, "--out", self.out, "--device", "cpu", *arguments)

    @property
    def error(self):
        """The message of a command that was refused: the last line, and no traceback."""
        assert self.code == 1, (self.code, self.stdout, self.stderr)
        assert "Traceback" not in self.stderr + self.stdout
        *before, last = self.stderr.strip().splitlines()
        assert not any(line.startswith("error: ") for line in before)
        assert last.startswith("error: "), self.stderr
        return last.removeprefix("error: ")


def altered_data(world, folder, **edits):
    """A data folder with the pictures of the tiny world and annotations that `edits` (by split) have changed."""
    folder.mkdir()
    for split in ("train", "val"):
        (folder / split).symlink_to(world.data / split)
        content = json.loads((world.data / f"{split}.json").read_text())
        edits.get(split, lambda _: None)(content)
        (folder / f"{split}.json").write_text(json.dumps(content))
    return str(folder)
