"""A worker's zygote from which everything that only Linux has was taken away before it starts."""

import runpy
from pathlib import Path

runpy.run_path(str(Path(__file__).with_name("not_linux.py")))["take_away"]()
runpy.run_path(str(Path(__file__).parents[3] / "trl_pper" / "judge" / "worker" / "zygote.py"), run_name="__main__")
