"""What deploy/ ships: the example configuration is one, and systemd understands the units."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from sds.config import Config, load

DEPLOY = Path(__file__).parents[2] / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))


def test_the_example_names_every_setting_and_loads(tmp_path: Path) -> None:
    text = (DEPLOY / "sds.toml").read_text()
    config = load(DEPLOY / "sds.toml", {})
    assert (config.data, config.embedded_default) == (Path("/var/lib/sds"), False)
    everything = tmp_path / "sds.toml"
    everything.write_text(re.sub(r"^#(?=[a-z_]+ = )", "", text, flags=re.MULTILINE))
    assert load(everything, {}) == config
    named = set(re.findall(r"^#?([a-z_]+) = ", text, re.MULTILINE))
    assert named == {field.name for field in fields(Config)}


def test_there_is_a_unit_for_each_process() -> None:
    assert [unit.stem for unit in UNITS] == ["sds-engine", "sds-gateway", "sds-tiering"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_understands_the_unit(unit: Path, tmp_path: Path) -> None:
    # It also wants the program to be there, which a clone has elsewhere, and the user.
    text = unit.read_text().replace("/opt/sds/bin/python", sys.executable).replace("=sds\n", "=root\n", 2)
    copy = tmp_path / unit.name
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", str(copy)], capture_output=True, text=True, check=False)
    about = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not about
