"""On a machine without the tools the run level says so; it neither passes nor fails."""

import pytest

from firstlight import targets
from firstlight.targets.ascend import compiler, emulator_build
from firstlight.targets.conform import conform

TARGET = targets.find("ascend-950pr")


@pytest.mark.parametrize("lacks", ["mlir-opt-19", "bishengir-compile-a5"])
def test_nothing_is_executed_without_a_tool_and_it_is_said(monkeypatch, tmp_path, lacks):
    if lacks == "mlir-opt-19":
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        monkeypatch.setattr(compiler, "compiler", lambda: None)
        monkeypatch.setattr(emulator_build, "compiler", lambda: None)
    assert lacks in emulator_build.lacking()
    assert TARGET.emulate({}, tmp_path) is None
    report = conform(TARGET, "run", ("relu",))
    (run,) = [check for check in report.checks if check.level == "run"]
    assert not run.problems
    assert lacks in " ".join(run.skips)
    assert "not here" in " ".join(run.skips)
    assert "NOT conformant" in report.summary
