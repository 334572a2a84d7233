"""Every page of `site/` in headless Chromium, at the widths of a telephone and of a desk.

python -m tools.site.screens          # what is cut off, what fails, what has changed
python -m tools.site.screens --keep   # keeps small pictures of some pages, to compare with

A page must be no wider than its window, run its scripts without an error and draw its models. Kept
pictures (tests/house/screens/) are an eighth of the size, so that another font is no other page,
and a part that is gone is. Without playwright or a Chromium it says so, and passes.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent.parent
SITE = ROOT / "site"
KEPT = ROOT / "tests" / "house" / "screens"
WIDTHS = (390, 1366)
COMPARED = ("", "start/", "course_4/", "api/layers/", "certificate/")
HEIGHT, EIGHTH = 1600, 8
APART = 14.0  # mean difference of 255 that another version of a font does not reach


def browser(playwright: Any) -> Any:
    """A Chromium of the machine, or playwright's own; None where there is none."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    path = next((found for name in names if (found := shutil.which(name))), None)
    try:
        return playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
    except Exception as error:  # playwright's own class names no reason
        print(f"screens: no Chromium starts here ({str(error).splitlines()[0]}): left out")
        return None


def small(png: bytes) -> np.ndarray:
    """A picture in grey, an eighth of its size."""
    picture = Image.open(io.BytesIO(png)).convert("L")
    size = picture.width // EIGHTH, picture.height // EIGHTH
    return np.asarray(picture.resize(size, Image.Resampling.BOX))


def look(page: Any, name: str, width: int, keep: bool) -> list[str]:
    """The faults of one page at one width."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(f"{name}: {error}"))
    page.set_viewport_size({"width": width, "height": 900})
    page.goto((SITE / name / "index.html").as_uri())
    faults = list(errors)
    wide = page.evaluate("document.documentElement.scrollWidth")
    if wide > width:
        faults.append(f"{name or 'home'} is {wide} pixels wide in a window of {width}")
    models = page.evaluate("document.querySelectorAll('.model').length")
    drawn = page.evaluate("document.querySelectorAll('.model svg path').length")
    if models > drawn:
        faults.append(f"{name} draws {drawn} of {models} models")
    if name in COMPARED:
        clip = {"x": 0, "y": 0, "width": width, "height": HEIGHT}
        now = small(page.screenshot(clip=clip, full_page=True))
        file = KEPT / f"{name.strip('/').replace('/', '_') or 'home'}_{width}.png"
        if keep:
            file.parent.mkdir(exist_ok=True)
            Image.fromarray(now).save(file)
        before = np.asarray(Image.open(file).convert("L"))
        same = before.shape == now.shape
        apart = np.abs(before.astype(float) - now).mean() if same else 255.0
        if apart > APART:
            faults.append(f"{name or 'home'} at {width} is {apart:.0f} of 255 from {file.name}")
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        print("screens: playwright is not installed: left out")
        return 0
    names = [path.parent.relative_to(SITE).as_posix() for path in sorted(SITE.rglob("index.html"))]
    names = ["" if name == "." else f"{name}/" for name in names]
    faults = []
    with sync_playwright() as playwright:
        chromium = browser(playwright)
        if chromium is None:
            return 0
        for width in WIDTHS:
            for name in names:
                page = chromium.new_page(color_scheme="light")
                faults += look(page, name, width, asked.keep)
                page.close()
        chromium.close()
    print(*faults, sep="\n")
    print(f"{len(names)} pages at {len(WIDTHS)} widths, {len(faults)} faults")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
