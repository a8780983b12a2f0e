"""Where the seconds before the first shard and the first step go, of this checkout and of another in turn.

    git worktree add /tmp/before COMMIT
    python benchmarks/startup.py --before /tmp/before --json benchmarks/results/startup.json

Small commands are timed whole. A run of `shard` on Ray and a training are watched from outside until the first shard
or step is begun: wall time and processor time of the whole family of processes at each event, and processor time by
kind of process. The demo is drawn and its text encoded once before; the arm "fresh" does both again.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from common import report, spread

ROOMS = ("schemas", "pipeline", "trainer")
POLL_SECONDS = 0.02
LIMIT_SECONDS = 600.0

IMPORTS = {
    "the driver's": "richsem_prep.cli, richsem_prep.console, richsem_prep.shard.run, richsem_prep.executors.ray, ray",
    "a worker's": "richsem_prep.executors.worker",
    "the trainer's": "richsem_train.cli, richsem_train.console, richsem_train.run.training",
}
PARTS = ("torch", "torch._dynamo", "torchvision", "timm", "transformers", "open_clip", "scipy.optimize", "ray")

ROLES = (
    "gcs_server", "raylet", "dashboard/agent.py", "dashboard.py", "runtime_env", "log_monitor", "monitor.py",
    "RayWorker", "default_worker", "ray::",
)  # fmt: skip
"""Parts of the command lines of Ray's processes; all others are the program's own."""

Event = tuple[str, Callable[[], bool]]


def main(
    before: Annotated[Path | None, typer.Option(help="Another checkout, such as of the commit before.")] = None,
    repeats: Annotated[int, typer.Option()] = 5,
    json: Annotated[Path | None, typer.Option(help="Write the figures here.")] = None,
) -> None:
    """Measure all arms in turn."""
    here = Path(__file__).parents[1]
    checkouts = {"after": here} if before is None else {"before": before.absolute(), "after": here}
    found: dict[str, dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_demo(folder, here)
        for number in range(repeats):
            for name, checkout in checkouts.items():
                for what, measured in one_round(folder, checkout, number).items():
                    found[what][name].append(measured)
    report("startup", {"repeats": repeats, "arms": {what: summed(arms) for what, arms in found.items()}}, json)


def one_round(folder: Path, checkout: Path, number: int) -> dict[str, Any]:
    """Each arm once."""
    environment = environment_of(folder, checkout)
    commands = {
        "richsem-prep --help": ("richsem_prep", "--help"),
        "richsem-prep shard --help": ("richsem_prep", "shard", "--help"),
        "richsem-prep inspect": ("richsem_prep", "inspect", folder / "cache"),
        "richsem-prep verify": ("richsem_prep", "verify", folder / "cache"),
        "richsem-train --help": ("richsem_train", "--help"),
        "richsem-train --list-configs": ("richsem_train", "--list-configs"),
    }
    figures: dict[str, Any] = {name: whole(command, environment) for name, command in commands.items()}
    for name, modules in IMPORTS.items():
        figures[f"imports, {name}"] = imports(modules, environment)
    figures["imports, a worker's, by part"] = imports_by_part(environment)
    figures["shard on Ray"] = shard_start(folder / f"{number}", folder / "data" / "demo", environment)
    fresh = environment | {"XDG_CACHE_HOME": str(folder / f"{number}" / "text")}
    figures["shard on Ray, fresh"] = shard_start(folder / f"{number}", folder / f"{number}" / "demo", fresh)
    figures["training"] = training_start(folder, folder / f"{number}" / "run", environment)
    shutil.rmtree(folder / f"{number}")
    return figures


def environment_of(folder: Path, checkout: Path) -> dict[str, str]:
    paths = os.pathsep.join(str(checkout / room) for room in ROOMS)
    data = {"RICHSEM_DATA": str(folder / "data"), "XDG_CACHE_HOME": str(folder / "text")}
    return os.environ | data | {"PYTHONPATH": paths}


def make_demo(folder: Path, checkout: Path) -> None:
    """The demo's pictures, a cache of them, and its text in the user's cache."""
    command = [*shard_command(folder / "cache", folder / "data" / "demo"), "--executor", "inline"]
    subprocess.run(command, env=environment_of(folder, checkout), check=True, stdout=subprocess.DEVNULL)


def shard_command(out: Path, root: Path) -> list[str]:
    return [
        sys.executable, "-m", "richsem_prep", "shard", "--dataset", "demo", "--root", str(root), "--out", str(out),
        "--limit", "128", "--samples-per-shard", "64", "--mosaics", "1",
    ]  # fmt: skip


def whole(command: tuple[Any, ...], environment: dict[str, str]) -> dict[str, float]:
    """Wall and processor seconds of a command."""
    module, *arguments = map(str, command)
    begun = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, command
    return {"wall": time.perf_counter() - begun, "cpu": used.ru_utime + used.ru_stime}


def imports(modules: str, environment: dict[str, str]) -> dict[str, float]:
    """Processor seconds and number of modules of an import in a fresh interpreter."""
    code = f"import sys, time; {modules and 'import ' + modules}; print(time.process_time(), len(sys.modules))"
    seconds, count = run_code(code, environment).split()
    return {"cpu": float(seconds), "modules": float(count)}


def imports_by_part(environment: dict[str, str]) -> dict[str, float]:
    """Processor seconds of packages that are imported one after the other, each without those before it."""
    code = (
        "import importlib, time\n"
        f"for name in {PARTS!r}:\n"
        "    begun = time.process_time()\n"
        "    try: importlib.import_module(name)\n"
        "    except ImportError: continue\n"
        "    print(name, time.process_time() - begun)\n"
    )
    return {name: float(seconds) for name, seconds in map(str.split, run_code(code, environment).splitlines())}


def run_code(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout


def shard_start(folder: Path, root: Path, environment: dict[str, str]) -> dict[str, float]:
    """From the command to the first shard's temporary file."""
    out = folder / "cache"
    shutil.rmtree(out, ignore_errors=True)
    spec = out / "labels" / "demo" / "spec.json"
    events: list[Event] = [
        ("listed", (out / "plan" / "plan.json").exists),
        ("teacher and text ready", spec.exists),
        ("first shard begun", lambda: (out / "pictures").is_dir() and any((out / "pictures").iterdir())),
    ]
    return watched([*shard_command(out, root), "--executor", "ray", "--workers", "2"], environment, events)


def training_start(folder: Path, out: Path, environment: dict[str, str]) -> dict[str, float]:
    """From the command to the first step's line in the log."""
    changes = (f"extra.cache={folder / 'cache'}", "log.every_steps=1", "evaluation.every_epochs=1")
    command = [sys.executable, "-m", "richsem_train", "--config", "demo", "--out", str(out)]
    command += [part for change in changes for part in ("--set", change)]
    events: list[Event] = [
        ("data open, detector built", (out / "config.yaml").exists),
        ("first step taken", lambda: any(path.stat().st_size for path in out.glob("*.jsonl"))),
    ]
    return watched(command, environment, events)


def watched(command: list[str], environment: dict[str, str], events: list[Event]) -> dict[str, float]:
    """Wall and processor seconds at each event, from the start on; then the command is ended."""
    begun = time.perf_counter()
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    family = Family(process.pid)
    figures: dict[str, float] = {}
    try:
        for name, has_happened in events:
            while not has_happened():
                assert process.poll() is None, f"{command} ended before: {name}"
                assert time.perf_counter() - begun < LIMIT_SECONDS, f"{command} takes too long: {name}"
                family.look()
                time.sleep(POLL_SECONDS)
            family.look()
            figures[f"{name}: wall"] = time.perf_counter() - begun
            figures[f"{name}: cpu"] = sum(family.seconds().values())
        return figures | {f"cpu of {role}": seconds for role, seconds in family.seconds().items()}
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


class Family:
    """Processor seconds of a process and all below it, those that have ended as they were last seen."""

    def __init__(self, pid: int) -> None:
        self._first = psutil.Process(pid)
        self._seen: dict[int, tuple[str, float]] = {}

    def look(self) -> None:
        try:
            members = [self._first, *self._first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return
        for member in members:
            try:
                used = member.cpu_times()
                self._seen[member.pid] = (role_of(member.cmdline()), used.user + used.system)
            except psutil.Error:
                continue

    def seconds(self) -> dict[str, float]:
        """By kind of process."""
        found: dict[str, float] = defaultdict(float)
        for role, seconds in self._seen.values():
            found[role] += seconds
        return dict(found)


def role_of(command: list[str]) -> str:
    line = " ".join(command)
    role = next((role for role in ROLES if role in line), "the program")
    return "workers" if role in {"RayWorker", "default_worker", "ray::"} else role


def summed(arms: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Median and quartiles of each figure of each arm."""
    return {
        name: {key: spread([each.get(key, 0.0) for each in rounds]) for key in rounds[-1]}
        for name, rounds in arms.items()
    }


if __name__ == "__main__":
    typer.run(main)
