"""Lays out the pages of the site for its generator: `make site`.

Pages stay where they are and keep their folders here, so that a link from page to page is the same on GitHub and on
the site. A link to any other file of the repository leads to a page that shows the file, a link to a folder to a page
that lists its files.
"""

import json
import os
import re
import shutil
from pathlib import Path, PurePath, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "docs/site"
NOTEBOOK = "notebooks/tour.ipynb"
PICTURES = {".png", ".svg"}
HIDDEN = "---\nsearch:\n  exclude: true\n---\n"
REPORT = f"{HIDDEN}# Report\n\nThis site was built without the report. `make report site` adds it.\n"
# a fenced block, inline code, or a link with what it leads to
TOKEN = re.compile(r"^```.*?^```$|`[^`\n]+`|\]\((?P<target>[^)\s]+)\)", re.MULTILINE | re.DOTALL)


def sources() -> list[str]:
    """The pages, as paths from the root."""
    single = ("README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "benchmarks/LOG.md")
    folders = ("published/README.md", "data/input/README.md")
    known = [name for name in (*single, *folders) if (ROOT / name).exists()]
    return [*known, *sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))]


def shown(path: Path, name: str) -> str:
    """A page with the text of a file."""
    language = path.suffix.lstrip(".") or "text"
    return f"{HIDDEN}# {name}\n\n````{language}\n{path.read_text('utf-8').rstrip()}\n````\n"


def notebook() -> str:
    """The notebook as a page: its text, and its code in blocks."""
    page = ""
    for cell in json.loads((ROOT / NOTEBOOK).read_text("utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "code":
            language = "bash" if text.startswith("%%bash") else "python"
            text = f"```{language}\n{text.removeprefix('%%bash').strip()}\n```"
        page += f"{text}\n\n"
    return page


class Stage:
    """The folder from which the generator reads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages = sources()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text, "utf-8")

    def add(self, name: str) -> str:
        """Adds what a link leads to, unless it is there, and returns the name of its page or picture."""
        path = ROOT / name
        if name in self.pages:
            return name
        if path.suffix in PICTURES:
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, self.folder / name)
            return name
        if path.is_dir():
            files = sorted(file.name for file in path.iterdir() if file.is_file())
            links = "".join(f"- [{file}]({os.path.relpath(self.add(f'{name}/{file}'), name)})\n" for file in files)
            self.write(f"{name}/index.md", f"{HIDDEN}# {name}/\n\n{links}")
            return f"{name}/index.md"
        if not path.is_file():
            raise SystemExit(f"error: a link must lead to a file or folder; received {name}")
        if name == NOTEBOOK:
            self.write(f"{name}.md", self.linked(notebook(), path.parent.relative_to(ROOT)))
            return f"{name}.md"
        page = f"{name.replace('.github/', 'github/')}.md"  # the generator takes no hidden folders
        self.write(page, shown(path, name))
        return page

    def page(self, name: str) -> str:
        """The text of a page, its links as they are on the site."""
        return self.linked((ROOT / name).read_text("utf-8"), PurePosixPath(name).parent)

    def linked(self, text: str, folder: PurePath) -> str:
        """The text of a page in that folder, its links as they are on the site."""

        def link(found: re.Match[str]) -> str:
            target = found["target"]
            if not target or "://" in target or target.startswith("#"):
                return found[0]
            file, mark, anchor = target.partition("#")
            leads = os.path.normpath(folder / file)
            return f"]({os.path.relpath(self.add(leads), folder)}{mark}{anchor})"

        return TOKEN.sub(link, text)


def lay_out(work: Path) -> None:
    """All that the generator reads, in `work`: pages/ and zensical.toml."""
    shutil.rmtree(work, ignore_errors=True)
    stage = Stage(work / "pages")
    for name in stage.pages:
        stage.write(name, stage.page(name))
    stage.write("report.md", REPORT)
    for name in ("extra.css", "iframe-worker.js"):
        shutil.copy(HERE / name, work / "pages")
    settings = (HERE / "zensical.toml").read_text("utf-8")
    if repository := os.environ.get("GITHUB_REPOSITORY"):  # set by GitHub's runners
        owner, name = repository.split("/")
        settings = settings.replace("[project]", f'[project]\nsite_url = "https://{owner}.github.io/{name}/"', 1)
        address = f"{os.environ['GITHUB_SERVER_URL']}/{repository}"
        settings += f'\n[[project.extra.social]]\nicon = "fontawesome/brands/github"\nlink = "{address}"\n'
    (work / "zensical.toml").write_text(settings, "utf-8")


if __name__ == "__main__":
    lay_out(ROOT / ".cache/site")
