"""The documentation builds without a warning. (Its examples run as doctests: see setup.cfg.)"""

import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"


def test_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q"]
    build = subprocess.run([*command, DOCS, tmp_path], capture_output=True, text=True)
    assert build.returncode == 0, build.stderr
    assert (tmp_path / "index.html").exists()
