"""The browser of the tests that look at pages."""

import shutil


def browser() -> str:
    """Its path."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    found = next((path for name in names if (path := shutil.which(name))), None)
    assert found, "a Chromium must be installed for this test (Debian: apt-get install chromium)"
    return found
