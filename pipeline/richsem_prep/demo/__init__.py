"""The built-in demo: a dataset drawn by code, and a small CLIP really trained on its world.

`dataset.write_demo` writes the dataset, `TEACHER_DIR` holds the teacher in open_clip's `local-dir:` layout, and
`pipeline/demo_teacher` trained it.
"""

from pathlib import Path

TEACHER_DIR = Path(__file__).parent / "teacher"
"""Load with `open_clip.create_model(f"local-dir:{TEACHER_DIR}")`."""

TEACHER_SIZE = 192
"""Pixels of a view's longer side for which the teacher's region features are best (`--teacher-size`)."""
