"""The two-stage detector at its recipe's size: seconds and memory of steps of all kinds, inference beside DINO's.

The detectors and their pictures are those of `benchmarks/two_stage.py`. A loss that isn't finite is the figure's error.
"""

from typing import Any

from figures import DEVICE, SMOKE, Figures
from step import Setting
from train_steps import Steps, seconds_of, waits
from two_stage import CACHED, DINO, IMAGE, PLAIN, SIDE, Kind, inference_of, smaller, step_of

# A CPU takes minutes for products in bfloat16.
SETTING = Setting(DEVICE, 64, 1, "fp32") if SMOKE else Setting(DEVICE, SIDE, 8, "bf16")


def steps_of(kind: Kind, size: Setting = SETTING) -> Steps:
    """With a trainer that nothing else holds."""
    return step_of(kind.trainer(SETTING), kind.pictures(size))


def rates(steps: Steps, pictures: int) -> dict[str, Any]:
    found = seconds_of(steps)
    return {**found, "pictures_s": pictures / found["seconds"]}


def inference(kind: Kind) -> dict[str, Any]:
    return rates(inference_of(kind.trainer(SETTING), SETTING, kind.pictures(SETTING)), SETTING.batch_size)


def main() -> None:
    figures = Figures("two-stage")
    small = smaller(SETTING)
    figures.measure("plain, bf16, batch 8", lambda: rates(steps_of(PLAIN), SETTING.batch_size))
    figures.measure("cached, bf16, batch 8", lambda: rates(steps_of(CACHED), SETTING.batch_size))
    figures.measure("image, bf16, batch 32 of half the side", lambda: rates(steps_of(IMAGE, small), small.batch_size))
    figures.measure("inference, bf16, batch 8", lambda: inference(PLAIN))
    figures.measure("inference of DINO, bf16, batch 8", lambda: inference(DINO))
    if not SMOKE:
        figures.measure("waits for the device", lambda: waits(steps_of(CACHED)))


if __name__ == "__main__":
    main()
