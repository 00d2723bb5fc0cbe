"""The documents name only what is there: links, files, settings; and every decision is in the index."""

import re
from pathlib import Path

import pytest

from service.problems import PROBLEMS
from service.settings import VARIABLES

ROOT = Path(__file__).parent.parent
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "lua/README.md", "deploy/README.md")]
DOCS += sorted((ROOT / "docs").rglob("*.md"))
FOLDERS = ("service", "lua", "tests", "loadtests", "docs", "deploy")

each_document = pytest.mark.parametrize("document", DOCS, ids=lambda path: str(path.relative_to(ROOT)))


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub makes of a document's headings."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_document
def test_every_link_leads_somewhere(document: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (document.parent / path).resolve() if path else document
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@each_document
def test_every_file_that_is_named_exists(document: Path):
    for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)`", document.read_text()):
        if "reports/" not in name:
            assert (ROOT / name).exists(), name


@each_document
def test_every_setting_that_is_named_exists(document: Path):
    named = set(re.findall(r"\bMATINEE_[A-Z_]*[A-Z]\b", document.read_text()))
    assert named <= {variable.name for variable in VARIABLES}


def test_operations_tells_more_of_every_setting():
    text = (ROOT / "docs/operations.md").read_text()
    assert [variable.name for variable in VARIABLES if f"| `{variable.name}` |" not in text] == []


def test_the_bad_requests_carry_codes_of_the_service():
    text = (ROOT / "docs/operations.md").read_text().split("## Ten bad requests")[1]
    told = re.findall(r"\| (\d{3}) `(\w+)` \|", text)
    assert len(told) == 10
    assert told == [(str(PROBLEMS[code][0]), code) for _, code in told]


def test_every_decision_is_in_the_index_and_short():
    records = sorted(path for path in (ROOT / "docs/decisions").glob("*.md") if path.name != "README.md")
    index = re.findall(r"^\| \[(\d{4})\]\((\S+)\) \| (.+) \|$", (records[0].parent / "README.md").read_text(), re.M)
    assert records
    assert sorted(name for _, name, _ in index) == [record.name for record in records]
    for number, name, title in index:
        lines = (records[0].parent / name).read_text().splitlines()
        assert name.startswith(f"{number}-")
        assert lines[0].endswith(title)
        assert len(lines) <= 30, name


def test_the_lines_of_a_failed_start_are_the_ones_the_service_prints():
    text = (ROOT / "docs/operations.md").read_text().split("## When it does not start")[1].split("\n## ")[0]
    sources = "\n".join(path.read_text() for path in sorted((ROOT / "service").glob("*.py")))
    sources = re.sub(r'"\n\s+f?"', "", sources)  # literals that Python joins
    rows = re.findall(r"^\| (`.*`) \| .+ \|$", text, re.MULTILINE)
    assert rows
    for line in [line for row in rows for line in re.findall(r"`([^`]+)`", row)]:
        for fragment in re.sub(r"MATINEE_[A-Z_]*|permission denied", "…", line).split("…"):
            assert fragment.strip(" ,();") in sources, line
