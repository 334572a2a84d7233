"""Processes of their own, as users have them."""

from __future__ import annotations

import os
import pathlib
import socket
import subprocess
import sys

from funcnet._machine import quick_compile_flags

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


def device_flags(count: int) -> str:
    """XLA_FLAGS of a process with so many devices, whose programs are compiled as the suite's."""
    return f"--xla_force_host_platform_device_count={count} {quick_compile_flags()}"


def commands(*each: list[str], **environment: str) -> list[subprocess.Popen[str]]:
    """`funcnet`, with these words each, in processes that know of each other."""
    several = ["--coordinator", f"127.0.0.1:{free_port()}", "--processes", str(len(each))]
    return [
        subprocess.Popen(
            [sys.executable, "-m", "funcnet", *words, *several, "--process", str(number)],
            env={**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
            | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, words in enumerate(each)
    ]


def free_port() -> int:
    """A port of this machine that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
