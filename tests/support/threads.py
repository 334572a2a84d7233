"""Threads that a test leaves behind."""

from __future__ import annotations

import threading


def ended() -> None:
    """Waits for the checks whose time was over: they would disturb the next test."""
    for thread in threading.enumerate():
        if thread.daemon and thread.name.endswith("(_run)"):
            thread.join()
