"""Processes of their own, as users have them."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

# Flags of the suite, which compile fast, are not the flags of users.
USERS_ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}

ROOT = pathlib.Path(__file__).parents[2]


def run_python(code: str, **environment: str) -> str:
    """Runs code in a fresh interpreter and returns what it prints; its failure is the test's."""
    return python("-c", code, **environment)


def python(*arguments: str, cwd: pathlib.Path = ROOT, **environment: str) -> str:
    """As `run_python`, with any arguments of the interpreter, in any folder."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu", **environment},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
