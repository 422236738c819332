"""The command line from within a test."""

from __future__ import annotations

from bt_margin.cli import main


def call(*arguments: str) -> int:
    """Type a command; its exit status."""
    try:
        main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0
