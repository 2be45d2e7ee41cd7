"""What the site of the documents (mkdocs.yml) needs beyond them: README as its first page, and links that leave docs/.

The documents are written to be read in the repository. On the site a link to a source file leads to the repository's
page (`repo_url`), or is plain text where that is not known. Run by mkdocs, as its hooks.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
HOME = "index.md"
_INLINE = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
_REFERENCE = re.compile(r"^\[(?P<text>[^\]]+)\]: (?P<target>\S+)$", re.MULTILINE)
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Have README be the first page."""
    files.append(File.generated(config, HOME, content=(ROOT / "README.md").read_text(encoding="utf-8")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Have links lead to where their targets lie on the site, or in the repository."""
    # README lies beside docs/, everything else within.
    source = "README.md" if page.file.src_uri == HOME else f"docs/{page.file.src_uri}"
    return rewritten(markdown, source, config.repo_url or "")


def rewritten(markdown: str, source: str, repository: str) -> str:
    """A page whose links fit the site.

    Args:
        source: the page, by its path from the repository's root.
        repository: address of the repository's page; empty where there is none.
    """
    here = posixpath.dirname("" if source == "README.md" else source.removeprefix("docs/"))

    def target_of(target: str) -> str | None:
        if "://" in target or target.startswith(("#", "mailto:")):
            return target
        path, _, anchor = target.partition("#")
        full = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if full.startswith("docs/"):
            return posixpath.relpath(full.removeprefix("docs/"), here or ".") + (f"#{anchor}" if anchor else "")
        if full == "README.md":
            return posixpath.relpath(HOME, here or ".")
        return f"{repository.rstrip('/')}/blob/main/{full}" if repository else None

    def inline(found: re.Match[str]) -> str:
        target = target_of(found["target"])
        return found["text"] if target is None else f"{found['image']}[{found['text']}]({target})"

    def reference(found: re.Match[str]) -> str:
        target = target_of(found["target"])
        return "" if target is None else f"[{found['text']}]: {target}"

    parts = _FENCED.split(markdown)
    return "".join(
        part if part.startswith("```") else _REFERENCE.sub(reference, _INLINE.sub(inline, part)) for part in parts
    )
