"""Pictures of a page: the one in the README, and every view for a look at desktop and phone width.

    python benchmarks/pictures.py leaderboards/digits-far-ood/index.html --readme FILE.png
    python benchmarks/pictures.py leaderboards/digits-far-ood/index.html --views FOLDER

Needs Playwright for Python and a Chromium, which `--chromium` names where it is not on the path.
What the page says on its console is printed, as there should be nothing.
"""

import argparse
import shutil
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, sync_playwright

DESKTOP, PHONE = (1440, 900), (375, 812)
README = 1200, 760


def opened(browser: Browser, page: Path, size: tuple[int, int], scheme: str) -> Page:
    """Return a page that is ready."""
    width, height = size
    tab = browser.new_page(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
    )
    tab.on("console", lambda message: print(f"console: {message.text}"))
    tab.on("pageerror", lambda error: print(f"error: {error}"))
    tab.goto(page.resolve().as_uri())
    tab.wait_for_selector("html[data-ready]")
    return tab


def views(tab: Page) -> Iterator[str]:
    """Yield the name of each view, after it was opened."""
    for place in range(tab.get_by_role("tab").count()):
        button = tab.get_by_role("tab").nth(place)
        button.click()
        tab.wait_for_timeout(300)
        yield str(button.get_attribute("id"))
    tab.locator("#tab-mean").click()
    tab.locator("#panel-mean button.value").first.click()
    tab.wait_for_timeout(300)
    yield "dialog"
    tab.locator("dialog figure").first.scroll_into_view_if_needed()
    tab.locator("dialog h3", has_text="Scores").evaluate("e => e.scrollIntoView()")
    yield "dialog-scores"
    tab.locator("dialog details.record summary").first.click()
    tab.locator("dialog details.record").first.evaluate("e => e.scrollIntoView()")
    yield "dialog-provenance"


def main() -> None:
    """Take the pictures that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--readme", type=Path, help="write the README's picture to this file")
    parser.add_argument("--views", type=Path, help="write a picture of each view to this folder")
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=options.chromium, args=["--no-sandbox"]
        )
        if options.readme:
            tab = opened(browser, options.page, README, "light")
            tab.locator(".about").evaluate("about => (about.open = false)")
            tab.screenshot(path=options.readme)
        for scheme in ("light", "dark") if options.views else ():
            for kind, size in (("desktop", DESKTOP), ("phone", PHONE)):
                tab = opened(browser, options.page, size, scheme)
                for name in views(tab):
                    tab.screenshot(path=options.views / f"{kind}-{scheme}-{name}.png")
                tab.close()
        browser.close()


if __name__ == "__main__":
    main()
