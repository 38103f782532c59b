"""Files appear whole."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelzoo.base_config import UserError
from modelzoo.files import exclusive, write_text


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "new" / "file.json"
    for text in ("first", "second, ünïcode"):
        write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert [p.name for p in path.parent.iterdir()] == ["file.json"]


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    write_text(path, "old")

    def full(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(UserError, match=r"file\.json: no space left on the device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_a_lock_is_for_one_process_and_goes_with_it(tmp_path):
    path = tmp_path / "run" / ".lock"
    program = (
        f"from pathlib import Path; from modelzoo.files import exclusive\nwith exclusive(Path({str(path)!r}), 'x'):\n"
    )
    hold = program + " print('held', flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="another process is training"), exclusive(path, "training"):
            pass
        holder.kill()
    with exclusive(path, "training"):  # the killed one does not keep it
        pass
    assert not path.exists()
