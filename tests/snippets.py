"""The code in the pages of the documentation: where it stands, and what comments before it say of it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted(ROOT.joinpath("docs").glob("*.md")))
NOTE = re.compile(r"<!-- ([a-z ]+): (.+) -->")
FENCED = re.compile(
    r"(?P<notes>(?:^<!-- .+ -->\n+)*)^(?P<fence>`{3,})(?P<language>.*)\n(?P<code>(?:.*\n)*?)(?P=fence)$",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Snippet:
    """
    A fenced block of code.

    :param notes: from comments right before it, such as ``<!-- not run: it needs an account -->``.
    """

    page: str
    line: int
    language: str
    code: str
    notes: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def snippets_of(page: Path) -> list[Snippet]:
    """Read the snippets of a page; what Sphinx includes there from elsewhere is none."""
    text = page.read_text(encoding="utf-8")
    return [
        Snippet(
            page.name,
            text.count("\n", 0, block.start("fence")) + 1,
            block["language"],
            block["code"],
            dict(NOTE.findall(block["notes"])),
        )
        for block in FENCED.finditer(text)
        if not block["language"].startswith("{")
    ]


SNIPPETS = [snippet for page in PAGES for snippet in snippets_of(page)]
