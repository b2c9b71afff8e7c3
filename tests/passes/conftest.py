"""Golden texts: `pytest tests/passes --update-golden` writes them again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from firstlight.ir.core import Module
from firstlight.ir.parser import parse

GOLDEN = Path(__file__).parents[1] / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden/*.ir")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, Module], None]:
    """Compares a module's text with tests/golden/NAME.ir."""

    def check(name: str, module: Module) -> None:
        path = GOLDEN / f"{name}.ir"
        if request.config.getoption("--update-golden", default=False):
            path.write_text(str(module))
        assert str(module) == path.read_text(), f"{path} differs: --update-golden after a look"
        assert str(parse(path.read_text(), str(path))) == str(module)

    return check
