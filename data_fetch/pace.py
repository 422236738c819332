"""A venue counts requests by address, whichever process asks: one timetable for all processes of a user.

The timetable is one small file per address and family of endpoints in the temporary folder; a turn is taken under a
lock that lasts for a read and a write. Where no such file can be kept, each process keeps its own pace alone.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path

STRAY_S = 120.0
"""A turn further ahead than this is no queue but a clock that was set back."""


class Pace:
    """Turns for one family of endpoints of one address."""

    def __init__(self, name: str, folder: Path | None = None) -> None:
        user = os.getuid() if hasattr(os, "getuid") else "user"
        self.folder = folder or Path(tempfile.gettempdir()) / f"bt-margin-pace-{user}"
        self.path = self.folder / re.sub(r"[^A-Za-z0-9.-]", "_", name)
        self._own = 0.0

    def turn(self, spacing_s: float) -> float:
        """Takes the next turn, after which `spacing_s` stay free; returns how many seconds it is away."""
        from filelock import FileLock, Timeout

        now = time.time()
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with FileLock(f"{self.path}.lock", timeout=2, poll_interval=0.002):
                at = self._after(now, self._read())
                self.path.write_text(repr(at + spacing_s))
        except (OSError, Timeout):
            at = self._after(now, self._own)
            self._own = at + spacing_s
        return at - now

    def _read(self) -> float:
        try:
            return float(self.path.read_text())
        except (FileNotFoundError, ValueError):
            return 0.0

    @staticmethod
    def _after(now: float, free: float) -> float:
        return free if now < free < now + STRAY_S else now
