"""Every figure that a machine with a GPU gives, in one run of about eight minutes; README.md beside this tells more.

    python benchmarks/gpu/check.py --out figures
    SMOKE=1 python benchmarks/gpu/check.py --out figures kernel steps

Each part is a process of its own with a limit of its own, what decides most first. A part writes its figures to
`parts/` after each of them, so a limit loses the figure under way and nothing else. `SMOKE=1` does all of it in small
on a CPU: its figures mean nothing, but what breaks there would break here. Needs nothing but Python before the wheels
are installed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
RESULT, PARTS_FOLDER, LOG = "gpu_check.json", "parts", "log.txt"

_LEAST_SECONDS = 8
"""Too few for imports alone."""

_SMOKE_SECONDS = 900


@dataclass(frozen=True)
class Part:
    """Some of the figures.

    Attributes:
        name: of the part.
        seconds: most that it may take.
        command: a script beside this one, and its arguments.
    """

    name: str
    seconds: int
    command: tuple[str, ...]


PARTS = (
    Part("environment", 45, ("environment.py",)),
    Part("kernel", 100, ("kernel.py",)),
    Part("tests", 60, ("kernel_tests.py",)),
    Part("steps", 110, ("train_steps.py", "steps")),
    Part("two-stage", 75, ("two_stage_steps.py",)),
    Part("steps-rn50", 45, ("train_steps.py", "steps-rn50")),
    Part("preparation-rn50", 90, ("preparation.py", "preparation-rn50")),
    # Reads the cache that the part before it made.
    Part("loader", 40, ("preparation.py", "loader")),
    Part("steps-vit", 60, ("train_steps.py", "steps-vit")),
    Part("preparation-vit", 80, ("preparation.py", "preparation-vit")),
)


def main() -> None:
    """Run the parts that are asked for."""
    arguments = _arguments()
    begun = time.monotonic()
    parts = arguments.out / PARTS_FOLDER
    parts.mkdir(parents=True, exist_ok=True)
    for part in PARTS:
        (parts / f"{part.name}.json").unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as scratch, (arguments.out / LOG).open("w") as log:
        work = Path(scratch)
        environment = part_environment(work, parts, arguments.wheels, log)
        outcomes = {}
        for part in PARTS:
            if arguments.parts and part.name not in arguments.parts:
                continue
            left = arguments.limit - (time.monotonic() - begun)
            outcomes[part.name] = run_part(part, left, environment, log)
            print(f"{part.name}: {outcomes[part.name]}", flush=True)
            # After each part, so that whoever stops this has what there is.
            write_result(arguments.out / RESULT, outcomes, parts)
    print(
        f"{time.monotonic() - begun:.0f} s; figures: {arguments.out / RESULT}, everything else: {arguments.out / LOG}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [part.name for part in PARTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="folder of the figures [default: $OUT]")
    parser.add_argument("--limit", type=float, default=None, help="seconds for all of it [default: 465]")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".whl", help="installed first, if there are any")
    arguments = parser.parse_args()
    if strangers := set(arguments.parts) - set(names):
        parser.error(f"no such part: {', '.join(sorted(strangers))}; choose of {', '.join(names)}")
    if arguments.out is None:
        parser.error("where to? Name a folder with --out, or set OUT")
    arguments.limit = arguments.limit or (len(PARTS) * _SMOKE_SECONDS if _is_smoke() else 465)
    return arguments


def _is_smoke() -> bool:
    return os.environ.get("SMOKE") == "1"


def part_environment(work: Path, parts: Path, wheels: Path, log: Any) -> dict[str, str]:
    """The parts' environment variables; installs wheels for them, where there are any, into a folder of their own."""
    rooms = [HERE, ROOT / "schemas", ROOT / "pipeline", ROOT / "trainer", HERE.parent, ROOT]
    found = sorted(wheels.glob("*.whl"))
    if found:
        site = work / "site"
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-compile"]
        subprocess.run([*pip, "--target", str(site), *map(str, found)], check=True, stdout=log, stderr=log)
        rooms.append(site)
    mine = {
        "WORK": str(work),
        "PARTS": str(parts.resolve()),
        "PYTHONPATH": os.pathsep.join([*map(str, rooms), os.environ.get("PYTHONPATH", "")]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TRITON_CACHE_DIR": str(work / "triton"),
        # The text bank would otherwise come from an earlier run.
        "XDG_CACHE_HOME": str(work / "cache"),
    }
    return {"OMP_NUM_THREADS": "1", **os.environ, **mine}


def run_part(part: Part, left: float, environment: dict[str, str], log: Any) -> dict[str, Any]:
    """Run one part within its limit and what is left of the whole; its exit code and seconds."""
    most = min(_SMOKE_SECONDS if _is_smoke() else part.seconds, left)
    if most < _LEAST_SECONDS:
        return {"skipped": "no time left"}
    log.write(f"-- {part.name}, at most {most:.0f} s\n")
    log.flush()
    begun = time.monotonic()
    script, *options = part.command
    command = [sys.executable, str(HERE / script), *options]
    try:
        code: int | str = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=log, stderr=log, timeout=most, check=False
        ).returncode
    except subprocess.TimeoutExpired:
        code = "limit reached"
    return {"exit": code, "seconds": round(time.monotonic() - begun, 1)}


def write_result(path: Path, outcomes: dict[str, Any], parts: Path) -> None:
    """Everything known so far, as one file."""
    known = {file.stem: json.loads(file.read_text()) for file in parts.glob("*.json")}
    figures = {name: {**outcome, "figures": known.get(name, {})} for name, outcome in outcomes.items()}
    content = {"benchmark": "gpu-check", "commit": _commit(), "smoke": _is_smoke(), "parts": figures}
    path.write_text(json.dumps(content, indent=1) + "\n")


def _commit() -> str | None:
    """Of the code that is measured; None where git doesn't know."""
    try:
        said = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.stdout.strip()


if __name__ == "__main__":
    main()
