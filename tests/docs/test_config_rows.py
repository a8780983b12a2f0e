"""The page on configs says of each which row of a paper it is, and of each file of weights who publishes it."""

import re

import pytest

from richsem_train.config import builtin_configs, load_config
from tests.docs.blocks import DOCS

BY_HAND = (DOCS / "configs.md").read_text(encoding="utf-8").partition("<!--")[0]
ROWS = re.findall(r"^\| (`.*?) \| (.*) \| (\w(?:, \w)*) \|$", BY_HAND, re.MULTILINE)
"""Configs, the paper's row, and the letters of the weights."""

WEIGHTS = dict(re.findall(r"^\| (\w) \| (.*)\|$", BY_HAND, re.MULTILINE))
PUBLISHED = [name for name in builtin_configs() if "demo" not in name]


def letters_of(name):
    return [letters.split(", ") for configs, _, letters in ROWS if f"`{name}`" in configs]


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_config_has_one_row(name):
    assert len(letters_of(name)) == 1


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_a_config_starts_from_is_told_with_who_publishes_it(name):
    config = load_config(name)
    backbone = config.model.backbone
    if config.start_from is not None:
        wanted = str(config.start_from)
    elif backbone.weights != "imagenet1k":
        wanted = backbone.weights
    else:
        wanted = {"resnet50": "torchvision's ResNet-50"}.get(backbone.name, backbone.name.removeprefix("timm:"))
    assert any(wanted in WEIGHTS[letter] for letter in letters_of(name)[0])


def test_figures_of_the_comments_are_those_of_the_rows():
    told = {
        name: re.findall(r"\d\d?\.\d AP\w*", row)
        for configs, row, _ in ROWS
        for name in re.findall(r"`(\w+)`", configs)
    }
    for name, path in builtin_configs().items():
        if figures := re.findall(r"\d\d?\.\d AP\w*", path.read_text(encoding="utf-8").splitlines()[0]):
            assert figures == told[name], name
