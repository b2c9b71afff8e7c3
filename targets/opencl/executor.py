"""The device here, if there is one, and kernels run on it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.opencl import OpenClDriver
from firstlight.runtime.launches import table_of
from firstlight.targets.devices import DeviceExecutor, Loaded
from firstlight.targets.opencl.source import write

if TYPE_CHECKING:
    from firstlight.codegen.simt import Scheduled

GET = "pip install 'firstlight[opencl]'"
ASK = """
import sys
from firstlight.runtime.errors import FirstlightError
from firstlight.runtime.launchers.opencl import OpenClDriver
driver = OpenClDriver("this machine")
try:
    driver.check()
except FirstlightError as error:
    print(f"another OpenCL device: {error.what} ({driver.device.name})")
    sys.exit(1)
print(driver.device.name)
"""


def device() -> tuple[str | None, str]:
    """The device that the launcher would use, None where there is none that works; how to get one.

    A process of its own is asked: where a driver has been used, its threads are missing in all
    processes that are forked later, and that is how kernels are tried.
    """
    done = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True)
    said = done.stdout.strip()
    return (None, said or GET) if done.returncode else (said, GET)


def executor(schedule: Callable[[str], Scheduled], folder: Path) -> DeviceExecutor | None:
    """What runs kernels on the device, if there is one; `schedule` gives their launches by name.

    A kernel is written to `folder`, and compiled by the driver, when it is first called.
    """
    try:
        driver = OpenClDriver("this machine")
        driver.check()
    except FirstlightError:
        return None

    def load(symbol: str) -> Loaded:
        work = folder / symbol
        work.mkdir()
        write([schedule(symbol)], work)
        table = table_of(json.loads((work / "code" / "launch.json").read_bytes()))
        (module,) = table.modules
        return table.kernels[symbol], driver.load(work / module, table.entries(0))

    name = f"{driver.device.name} ({driver.device.platform.name.strip()})"
    return DeviceExecutor(name, driver, load)
