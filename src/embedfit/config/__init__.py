"""The settings of a run: their definitions, the presets, and the joining of all sources of settings."""

from embedfit.config.kinds import ARRAYS, RECORDED
from embedfit.config.searching import WINDOW_TOKENS, array_files
from embedfit.config.sections import (
    MODEL_ALIASES,
    Config,
    decides_result,
    fields,
    path_kind,
    refuse_bills,
    refuse_if_offline,
    setting,
)
from embedfit.config.sources import PRESETS, change, changes, load, resolve, save, stored_settings
from embedfit.config.tuning import MergeConfig, TrainConfig
from embedfit.config.writing import GenerateConfig, StyleName, with_generator

__all__ = [
    "ARRAYS",
    "MODEL_ALIASES",
    "PRESETS",
    "RECORDED",
    "WINDOW_TOKENS",
    "Config",
    "GenerateConfig",
    "MergeConfig",
    "StyleName",
    "TrainConfig",
    "array_files",
    "change",
    "changes",
    "decides_result",
    "fields",
    "load",
    "path_kind",
    "refuse_bills",
    "refuse_if_offline",
    "resolve",
    "save",
    "setting",
    "stored_settings",
    "with_generator",
]
