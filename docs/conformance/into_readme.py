"""Put the tables of all reports in this folder into the README, between its two marks."""

from pathlib import Path

from firstlight.targets.conform import matrix, read_report

HERE = Path(__file__).parent
README = HERE.parents[1] / "README.md"
BEGIN, END = "<!-- made by docs/conformance/into_readme.py -->\n", "<!-- end -->\n"


def main() -> None:
    """Replace what stands between the marks."""
    tables = matrix([read_report(path) for path in sorted(HERE.glob("*.json"))])
    head, begin, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    _, end, tail = rest.partition(END)
    assert begin, "the README has lost its first mark"
    assert end, "the README has lost its second mark"
    README.write_text(f"{head}{BEGIN}{tables}\n{END}{tail}", encoding="utf-8")


if __name__ == "__main__":
    main()
