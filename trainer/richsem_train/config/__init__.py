"""The config of a run: read from YAML, changed by `--set`, validated once, then trusted."""

from richsem_train.config.data import (
    AnyAugmentation,
    AugmentationConfig,
    DetectionConfig,
    ExtraConfig,
    ScaleJitterConfig,
    SplitConfig,
    TextConfig,
)
from richsem_train.config.model import (
    BackboneConfig,
    CenternetCascadeConfig,
    DenoisingConfig,
    DinoConfig,
    LossConfig,
    ModelConfig,
)
from richsem_train.config.read import (
    DEFAULT_CONFIG,
    as_config,
    builtin_configs,
    config_differences,
    config_yaml,
    known_keys,
    load_config,
    parse_config,
    with_changes,
)
from richsem_train.config.run import EvaluationConfig, ScheduleConfig, TrainConfig

__all__ = [
    "DEFAULT_CONFIG",
    "AnyAugmentation",
    "AugmentationConfig",
    "BackboneConfig",
    "CenternetCascadeConfig",
    "DenoisingConfig",
    "DetectionConfig",
    "DinoConfig",
    "EvaluationConfig",
    "ExtraConfig",
    "LossConfig",
    "ModelConfig",
    "ScaleJitterConfig",
    "ScheduleConfig",
    "SplitConfig",
    "TextConfig",
    "TrainConfig",
    "as_config",
    "builtin_configs",
    "config_differences",
    "config_yaml",
    "known_keys",
    "load_config",
    "parse_config",
    "with_changes",
]
