"""What is installed from a wheel, outside the checkout, finds its configs."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_a_wheel_carries_the_configs_and_its_commands_work(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(installed)
    shipped = {p.relative_to(ROOT / "configs").as_posix() for p in (ROOT / "configs").rglob("*.yaml")}
    assert shipped == {n.removeprefix("modelzoo/configs/") for n in names if n.startswith("modelzoo/configs/")}
    program = (
        f"import sys; sys.path.insert(0, {str(installed)!r})\n"
        "import modelzoo.cli.main as m\n"
        f"assert m.__file__.startswith({str(installed)!r}), m.__file__\n"
        "sys.argv = ['modelzoo', 'show', 'continuous_pretraining/params_gptj_6B_TRC2']\nm.main()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "6,050,882,784" in done.stdout
