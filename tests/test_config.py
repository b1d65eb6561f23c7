"""Settings: presets, precedence, errors that name what is allowed, and a round trip through TOML."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from embedfit import config
from embedfit.errors import InputError, UsageError


@pytest.mark.parametrize("preset", config.PRESETS)
def test_a_stored_configuration_comes_back(tmp_path: Path, preset: str) -> None:
    resolved = config.resolve(preset=preset, overrides={"docs": ["a.pdf"], "seed": 7})
    config.save(resolved, tmp_path / "embedfit.toml")
    assert config.load(tmp_path / "embedfit.toml") == resolved


def test_assignments_beat_options_beat_the_file_beats_the_preset(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text('preset = "offline"\nseed = 1\n[train]\nepochs = 5\nbatch_size = 8\n')
    resolved = config.resolve(file=file, overrides={"seed": 2}, assignments=("train.epochs=9", "train.loss=distil"))
    assert (resolved.model, resolved.generate.generator) == ("minilm", "local")
    assert (resolved.seed, resolved.train.epochs, resolved.train.batch_size, resolved.train.loss) == (2, 9, 8, "distil")


def test_presets_are_not_changed_by_use() -> None:
    config.resolve(preset="aws-blog", assignments=("train.epochs=99",))
    assert config.PRESETS["aws-blog"]["train"]["epochs"] == 2


def test_an_unknown_setting_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"train\.epoch") as caught:
        config.resolve(assignments=("train.epoch=3",))
    assert caught.value.remedy is not None and "train.epochs" in caught.value.remedy
    assert caught.value.exit_code == 2


def test_a_value_out_of_range_is_named() -> None:
    with pytest.raises(UsageError, match=r"train\.temperature.*greater than 0"):
        config.resolve(assignments=("train.temperature=0",))


def test_a_teachers_weights_are_three_and_not_all_zero() -> None:
    assert config.resolve(assignments=("train.teacher_weights=[3, 0, 1]",)).train.teacher_weights == (3, 0, 1)
    with pytest.raises(UsageError, match=r"train\.teacher_weights.*must be above 0"):
        config.resolve(assignments=("train.teacher_weights=[0, 0, 0]",))
    with pytest.raises(UsageError, match=r"train\.teacher_weights"):
        config.resolve(assignments=("train.teacher_weights=[1, 1]",))


@pytest.mark.parametrize("text", ["train.epochs", "=3"])
def test_an_assignment_without_key_or_value_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="not KEY=VALUE"):
        config.resolve(assignments=(text,))


def test_an_unknown_preset_lists_the_presets() -> None:
    with pytest.raises(UsageError, match="no preset 'x'") as caught:
        config.resolve(preset="x")
    assert "offline" in str(caught.value)


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is missing"):
        config.load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("a = [")
    with pytest.raises(InputError, match="not valid TOML"):
        config.load(tmp_path / "broken.toml")


@pytest.mark.parametrize("key", config.fields(), ids=str)
def test_every_setting_says_whether_it_decides_a_result(key: str) -> None:
    """Write `name: type = decides(…)` or `incidental(…)` in config.py, not a bare default and not Field(…)."""
    assert config.fields()[key].json_schema_extra is not None, (
        test_every_setting_says_whether_it_decides_a_result.__doc__
    )


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("seed=-1", "seed in the settings: Input should be greater than or equal to 0"),
        ("seed=99999999999999999999", "seed in the settings: at most 1,000,000,000 is possible"),
        ("ingest.max_seconds=99999999999999", "ingest.max_seconds in the settings: at most 1,000,000,000"),
        ("train.epochs=1e400", "train.epochs in the settings: Input should be a finite number"),
        ("train.epochs=1e12", "train.epochs in the settings: at most 1,000,000,000 is possible"),
        ("ingest.max_tokens=true", "ingest.max_tokens in the settings: a number is needed, not true or false"),
        ("generate.temperature=false", "a number is needed, not true or false"),
        ("model=", "The name of a file or folder is empty"),
        ("ingest=3", "ingest in the settings: it is a group of settings, such as ingest.max_tokens"),
        ("g\u00e9n=1", "g\u00e9n in the settings: there is no such setting"),
    ],
)
def test_values_that_no_setting_can_have_are_refused_in_words(assignment: str, message: str) -> None:
    with pytest.raises(UsageError) as error:
        config.resolve(assignments=(assignment,))
    assert message in error.value.message


def test_every_number_among_the_settings_has_a_limit() -> None:
    for key, field in config.fields().items():
        if {int, float} & {field.annotation, *get_args(field.annotation)}:
            for value in ("1e300", "inf", "nan", "-inf", "true", "99999999999999999999999", "-99999999999999999999999"):
                with pytest.raises(UsageError):
                    config.resolve(assignments=(f"{key}={value}",))
