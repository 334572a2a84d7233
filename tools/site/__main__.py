"""Makes the documentation: pages are run, written as Markdown, rendered by Zensical, and checked.

python -m tools.site           # runs the pages, makes build/pages and site/, checks all of it
python -m tools.site --pages   # runs the pages and makes build/pages alone
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from tools.site import finish, run, stage


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pages", action="store_true", help="make no HTML")
    asked = parser.parse_args(arguments)
    faults = run.run_all()
    stage.write(stage.PAGES)
    if asked.pages or faults:
        print(*faults, sep="\n")
        return 1 if faults else 0
    environment = {**os.environ, "PYTHONPATH": str(stage.ROOT)}
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    ended = subprocess.run(
        command, cwd=stage.ROOT, env=environment, text=True, capture_output=True, check=False
    )
    if ended.returncode:
        print(ended.stdout[-20000:], ended.stderr[-3000:], sep="\n")
        return ended.returncode
    faults = finish.finish(stage.ROOT / "site")
    print(*faults, sep="\n")
    print(f"{len(faults)} faults; the site is in {stage.ROOT / 'site'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
