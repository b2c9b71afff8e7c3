"""The documents say what the source says."""

import re
from pathlib import Path

from click.testing import CliRunner

from firstlight.cli import (
    BROKEN_PIPE,
    BUG,
    INTERRUPTED,
    REFUSED,
    STATUSES,
    TERMINATED,
    WRONG_USE,
    cli,
)

ROOT = Path(__file__).parents[1]
PARTS = ("frontend", "ir", "passes", "codegen", "targets", "runtime", "comparison",
         "measure")
SAFETENSORS = {f"F{family}2{n}" for family in (1, 5) for n in range(5)}
"""Codes that runtime/safetensors.py puts together from a family and a number."""


def test_every_error_code_is_documented_and_none_is_invented():
    files = [p for part in PARTS for p in (ROOT / part).rglob("*.py")] + list(ROOT.glob("*.py"))
    used = {code for p in files for code in re.findall(r'"(F[1-7]\d\d)"', p.read_text())}
    text = (ROOT / "docs/errors.md").read_text()
    rows = re.findall(r"^\| (F\d{3})(?: to F(\d{3}))? \|", text, flags=re.MULTILINE)
    documented = [
        f"F{n}" for first, last in rows for n in range(int(first[1:]), int(last or first[1:]) + 1)
    ]
    assert sorted(documented) == sorted(used | SAFETENSORS)


def test_commands_and_exit_statuses_are_documented():
    text = (ROOT / "docs/cli.md").read_text()
    for name in cli.commands:
        assert f"firstlight {name} " in text
    for status in (0, REFUSED, WRONG_USE, BUG, INTERRUPTED, BROKEN_PIPE, TERMINATED):
        assert f"| {status} |" in text
        assert re.search(rf"^  {status} ", STATUSES, flags=re.MULTILINE)


def test_every_package_has_a_readme():
    missing = [part for part in (*PARTS, "examples") if not (ROOT / part / "README.md").is_file()]
    assert missing == []


def test_relative_links_lead_somewhere():
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")]:
        for link in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.relative_to(ROOT)}: {link}"


def test_the_support_matrix_is_what_the_reports_say():
    reports = sorted((ROOT / "docs" / "conformance").glob("*.json"))
    assert reports
    shown = CliRunner().invoke(cli, ["conform", "--matrix", *map(str, reports)])
    assert shown.exit_code == 0
    assert shown.stdout.strip() in (ROOT / "README.md").read_text()
