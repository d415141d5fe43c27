"""The code of docs/metric.md runs, and its figures are those of the metric."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metric.md").read_text()


@pytest.mark.slow
@pytest.mark.runs("docs/metric.md")
def test_the_code_of_the_page_runs(page, tmp_path):
    code = "".join(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
    environment = {
        "PATH": "/usr/bin:/bin", "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    code += "print(*(name for name in figures if not name.startswith('pass@')), 'pass@k')\n"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=110, check=False,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    documented = re.findall(r"^\| `([^`]+)` \| ", page.read_text(), flags=re.MULTILINE)
    assert set(done.stdout.split()) == set(documented)


def test_the_card_of_the_metric_has_the_same_figures():
    card = (ROOT / "trl_pper" / "metrics" / "pass_rate" / "README.md").read_text()
    figures = card.partition("| figure |")[2]
    rows = r"^\| `([^`]+)` \| "
    assert re.findall(rows, figures, flags=re.MULTILINE) == re.findall(rows, PAGE, flags=re.MULTILINE)
