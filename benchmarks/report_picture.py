"""Write a picture of a study's report for the README: the first screen on a desktop.

    python benchmarks/report_picture.py runs/study

Needs `pip install playwright` and a Chromium (`apt install chromium`). Writes
docs/images/report.png.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "report.png"
SCREEN = {"width": 1280, "height": 1000}
LARGEST = 200_000
DRAWN = (
    "document.querySelectorAll('.chart svg').length === document.querySelectorAll('figure').length"
)


def main() -> None:
    """Write the picture and print its size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="Folder of a study, with its report.")
    parser.add_argument("--out", type=Path, default=PICTURE)
    options = parser.parse_args()
    page = options.study.resolve() / "report.html"
    if not page.exists():
        parser.error(f"{page} is not there; run `tell report {options.study}` first.")
    take(page, options.out)
    size = options.out.stat().st_size
    print(f"{options.out}: {size:,} bytes")
    if size > LARGEST:
        parser.exit(1, f"That is more than {LARGEST:,}, which is a lot for a README.\n")


def take(page: Path, out: Path) -> None:
    """Open the page in headless Chromium and write its first screen once all charts are drawn."""
    from playwright.sync_api import sync_playwright

    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        opened = browser.new_page(viewport=SCREEN, color_scheme="light")
        opened.set_default_timeout(300_000)
        opened.goto(page.as_uri())
        opened.wait_for_function(DRAWN)
        out.parent.mkdir(parents=True, exist_ok=True)
        opened.screenshot(path=out)
        browser.close()


if __name__ == "__main__":
    main()
