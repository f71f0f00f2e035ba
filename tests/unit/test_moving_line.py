"""The line that moves: whole on a wide terminal, cut on a narrow one, nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from hpcvlm.cli.moving_line import MovingLine


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_line_is_cut_where_the_terminal_would_wrap_it(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "20")
    with MovingLine() as line:
        line.show("⠋ weights 0:07 shards\t1 of 2\n")
    monkeypatch.setenv("COLUMNS", "300")
    with MovingLine() as line:
        line.show("x" * 300)
    narrow, wide = "⠋ weights 0:07 shar", "x" * 99
    assert terminal.getvalue() == f"\r\x1b[2K{narrow}\r\x1b[2K\r\x1b[2K{wide}\r\x1b[2K"


def test_nothing_is_written_elsewhere(capsys: pytest.CaptureFixture[str]) -> None:
    with MovingLine() as line:
        line.show("loading")
    assert not line.live
    assert capsys.readouterr() == ("", "")


def test_what_was_not_shown_is_not_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with MovingLine():
        pass
    assert terminal.getvalue() == ""
