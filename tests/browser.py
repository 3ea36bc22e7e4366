"""The browser of the tests that look at pages."""

import shutil


def browser() -> str | None:
    """The path of the system's Chromium; None where only Playwright may have one (`playwright install chromium`)."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next((path for name in names if (path := shutil.which(name))), None)
