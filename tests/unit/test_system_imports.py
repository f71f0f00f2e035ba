from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from hpcvlm.system.imports import import_at_first_use
import_at_first_use("colorsys")
import_at_first_use("json.tool")
from json import tool
import colorsys
assert "rgb_to_hsv" not in vars(colorsys)
assert colorsys.rgb_to_hsv(1.0, 0.0, 0.0) == (0.0, 1.0, 1.0)
assert tool.main.__module__ == "json.tool"
assert "main" in vars(sys.modules["json.tool"])
from colorsys import hsv_to_rgb
real = sys.modules["colorsys"]
import_at_first_use("colorsys")
assert sys.modules["colorsys"] is real
"""


def test_a_module_is_loaded_when_something_of_it_is_used() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)


def test_submitit_does_not_load_what_only_its_plug_ins_need() -> None:
    program = (
        "import sys; from hpcvlm.submit.job import load_executors; load_executors();"
        "import importlib.metadata;"
        "assert 'email.message' not in sys.modules;"
        "assert importlib.metadata.version('submitit');"
        "assert 'email.message' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
