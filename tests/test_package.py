"""What `pip install .` gives a user: the `sds` package, its Rust module and the command, nothing of the repository."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.timeout(1800)
def test_the_wheel_holds_the_package_and_nothing_else(tmp_path: Path) -> None:
    # The same cargo target folder as `make test` uses: usually only packing is left to do.
    subprocess.run(
        [sys.executable, "-m", "maturin", "build", "--release", "--quiet", "--out", str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        names = packed.namelist()
        (entry_points,) = (name for name in names if name.endswith("/entry_points.txt"))
        assert "sds=sds.cli:main" in packed.read(entry_points).decode().replace(" ", "")
    assert {name.split("/")[0].partition("-")[0].partition(".")[0] for name in names} == {"sds"}
    for wanted in ("sds/__init__.py", "sds/_core.pyi", "sds/py.typed"):
        assert wanted in names
    assert [name for name in names if name in {"sds/cli.py", "sds/cli/__init__.py"}]
    assert [name for name in names if name.startswith("sds/_core") and name.endswith(".so")]
    assert not [name for name in names if "__pycache__" in name]
