"""The toy artifact, written and loaded once."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from firstlight.runtime import Model, load
from support.fake_artifact import write_fake_artifact


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy artifact; tests that change files write their own."""
    return write_fake_artifact(tmp_path_factory.mktemp("toy") / "artifact", tokenizer=True)


@pytest.fixture(scope="session")
def model(toy: Path) -> Iterator[Model]:
    """The toy, loaded with two threads."""
    with load(toy, threads=2) as loaded:
        yield loaded
