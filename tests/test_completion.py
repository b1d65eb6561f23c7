"""Completion in the shell: the scripts that are installed, and what they are answered."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from embedfit.cli import main as cli

#: What each shell's script sets before it asks, for "embedfit ledger l" and for "embedfit run --tra".
ASKED = {
    "bash": [
        {"COMP_WORDS": "embedfit ledger l", "COMP_CWORD": "2"},
        {"COMP_WORDS": "embedfit run --tra", "COMP_CWORD": "2"},
    ],
    "zsh": [{"_TYPER_COMPLETE_ARGS": "embedfit ledger l"}, {"_TYPER_COMPLETE_ARGS": "embedfit run --tra"}],
    "fish": [
        {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "embedfit ledger l"},
        {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_ARGS": "embedfit run --tra"},
    ],
}


def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **environment: str) -> str:
    with monkeypatch.context() as patched:
        for name, value in environment.items():
            patched.setenv(name, value)
        with pytest.raises(SystemExit):
            cli.main([])
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", ASKED)
def test_commands_and_options_are_completed(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = [answer(monkeypatch, capsys, _EMBEDFIT_COMPLETE=f"complete_{shell}", **asked) for asked in ASKED[shell]]
    assert "list" in found[0] and "export" not in found[0]
    assert "--track" in found[1] and "--seed" not in found[1]


@pytest.mark.parametrize("shell", ASKED)
def test_the_script_of_each_shell_is_shown(
    shell: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = answer(monkeypatch, capsys, _EMBEDFIT_COMPLETE=f"source_{shell}")
    assert f"_EMBEDFIT_COMPLETE=complete_{shell}" in script
    if program := shutil.which(shell):
        assert subprocess.run([program, "-n"], input=script, text=True, capture_output=True, timeout=60).returncode == 0


def test_bash_completes_by_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not here")
    script = answer(monkeypatch, capsys, _EMBEDFIT_COMPLETE="source_bash")
    program = tmp_path / "embedfit"
    code = "from embedfit.cli.main import main; main()"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$@"\n')
    program.chmod(0o755)
    asks = f'{script}\nCOMP_WORDS=(embedfit se); COMP_CWORD=1\n_embedfit_completion {program}\necho "${{COMPREPLY[@]}}"'
    done = subprocess.run([bash, "-c", asks], capture_output=True, text=True, timeout=120)
    assert done.stdout.split() == ["search", "serve"], done.stderr
