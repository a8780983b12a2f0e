"""The tests that need a GPU: how many passed, failed and were skipped, and the names of those that failed."""

from typing import Any
from xml.etree import ElementTree

import pytest
from figures import WORK, Figures

TESTS = ("tests/trainer/models/dino/test_triton_deformable_attention.py", "tests/trainer/run/test_waits.py")


def gpu_tests() -> dict[str, Any]:
    report = WORK / "tests.xml"
    # Not the project's own options: pytest's plugins may be absent here.
    pytest.main(
        [
            "-m",
            "gpu",
            "-q",
            "-o",
            "addopts=",
            "--import-mode=importlib",
            "-p",
            "no:cacheprovider",
            f"--junit-xml={report}",
            *TESTS,
        ]
    )
    cases = ElementTree.parse(report).findall(".//testcase")
    outcome: dict[str, Any] = {"passed": 0, "skipped": 0, "failed": []}
    for case in cases:
        if case.find("failure") is not None or case.find("error") is not None:
            outcome["failed"].append(case.get("name"))
        else:
            outcome["skipped" if case.find("skipped") is not None else "passed"] += 1
    return outcome


if __name__ == "__main__":
    Figures("tests").measure("gpu tests", gpu_tests)
