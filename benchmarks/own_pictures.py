"""How long `richsem-train new` looks through many pictures: a folder of YOLO's, seven boxes a picture.

    python benchmarks/own_pictures.py --pictures 100000 --folder /tmp/many

Pictures are starts of JPEGs with other bytes behind them: nothing is decoded. They come from the page cache.
"""

import argparse
import io
import shutil
import time
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console

from richsem_train.console import ConsoleReporter
from richsem_train.own_data.make import NewRequest, make_new

_START_BYTES = 4_096
_BOXES = 7


def make_pictures(folder: Path, pictures: int) -> None:
    rng = np.random.default_rng(0)
    encoded = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).resize((640, 480)).save(encoded, "JPEG")
    start = encoded.getvalue()[:_START_BYTES]
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
    for number in range(pictures):
        (folder / "data" / "images" / f"{number:07d}.jpg").write_bytes(start + rng.bytes(16 + number % 4096))
        rows = np.column_stack([rng.integers(0, 80, _BOXES), rng.uniform(0.3, 0.6, (_BOXES, 4))])
        lines = "".join(f"{int(row[0])} {' '.join(f'{value:.6f}' for value in row[1:])}\n" for row in rows)
        (folder / "data" / "labels" / f"{number:07d}.txt").write_text(lines)
    names = [f"class_{number}" for number in range(80)]
    (folder / "data" / "data.yaml").write_text(f"names: {names}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, required=True, help="is made, and removed in the end")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True)
    try:
        make_pictures(arguments.folder, arguments.pictures)
        started, processor = time.perf_counter(), time.process_time()
        with ConsoleReporter(Console(stderr=True)) as reporter:
            request = NewRequest(
                data=arguments.folder / "data",
                out=arguments.folder / "mine",
                images=None,
                teacher="demo",
                base=None,
                changes=(),
                near_copies=False,
                seed=0,
                hours=8.0,
                device="cpu",
            )
            made = make_new(request, reporter)
        seconds, of_processor = time.perf_counter() - started, time.process_time() - processor
        print(
            f"{arguments.pictures:,} pictures, {made.found.data.boxes:,} boxes: {seconds:,.1f} s, {of_processor:,.1f} "
            f"s of processors, {made.found.data.copies:,} sets of identical pictures"
        )
    finally:
        shutil.rmtree(arguments.folder)


if __name__ == "__main__":
    main()
