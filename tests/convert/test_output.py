"""The folder that import, export and vocab write: theirs alone, and never in the place of another."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelzoo.base_config import UserError
from modelzoo.cli import export_hf, import_hf, vocab
from modelzoo.convert import importing
from modelzoo.convert.output import new_folder
from modelzoo.files import exclusive
from modelzoo.trainer import checkpoint as checkpoint_files
from modelzoo.trainer.checkpoint import all_damage
from tests.convert.hf_models import refused, save


@pytest.mark.parametrize("content", ["file", "empty", "folder", "link"])
def test_what_comes_to_exist_meanwhile_is_left_alone(tmp_path, content):
    out = tmp_path / "out"

    def write() -> None:
        with new_folder(out, 0) as partial:
            (partial / "new").touch()
            match content:
                case "file":
                    out.write_text("another's")
                case "link":
                    out.symlink_to("nowhere")
                case _:
                    out.mkdir()
                    if content == "folder":
                        (out / "precious").touch()

    with pytest.raises(UserError, match=r"out: has come to exist meanwhile"):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert not (out / "new").exists()
    assert content != "folder" or (out / "precious").exists()


def test_two_at_once(tmp_path, monkeypatch):
    save(tmp_path / "hf", "gpt2")
    real, refusals = importing.check_logits, []

    def second(*arguments):
        for start in (
            lambda: import_hf.run(str(tmp_path / "hf"), tmp_path / "ours"),
            lambda: export_hf.run(tmp_path / "done", tmp_path / "ours"),
            lambda: vocab.run(tmp_path / "done", str(tmp_path / "hf"), tmp_path / "ours"),
        ):
            with pytest.raises(UserError, match=r"\.ours\.lock: another process is writing .*ours; wait") as refusal:
                start()
            refusals.append(refusal)
        return real(*arguments)

    import_hf.run(str(tmp_path / "hf"), tmp_path / "done", check=False)
    monkeypatch.setattr(importing, "check_logits", second)
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert len(refusals) == 3
    assert list(all_damage(tmp_path / "ours")) == []
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "done", "ours"}


def test_a_finished_one_is_seen_after_the_lock(tmp_path):
    with exclusive(tmp_path / ".out.lock", "writing"):
        pass
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="out: exists already"), new_folder(tmp_path / "out", 0):
        pass


def test_a_link_to_nowhere(tmp_path):
    save(tmp_path / "hf", "gpt2")
    (tmp_path / "ours").symlink_to("gone")
    with pytest.raises(UserError, match=r"ours: is a link to gone, which does not exist; choose another path"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")


SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs the tests may ignore both, and so would this
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from modelzoo.convert import importing
from modelzoo.cli.main import main
def wait(*_):
    print("writing", flush=True)
    time.sleep(60)
importing.check_logits = wait
sys.argv = ["modelzoo", "import", "hf", "ours"]
main()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(tmp_path, number):
    save(tmp_path / "hf", "gpt2")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", SLOW], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.1)
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 3, errors
    assert b"stopped; nothing of ours stays" in errors
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_out_exists(tmp_path):
    save(tmp_path / "hf", "gpt2")
    import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UserError, match="ours: exists already"):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    with pytest.raises(UserError, match="hf: exists already"):
        export_hf.run(tmp_path / "ours", tmp_path / "hf")
    with pytest.raises(UserError, match="--max-shard-size 5 apples: expected a size"):
        export_hf.run(tmp_path / "ours", tmp_path / "out", max_shard_size="5 apples")


def test_an_interrupted_import_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    save(tmp_path / "hf", "gpt2")
    monkeypatch.setattr(importing, "check_logits", interrupt)
    with pytest.raises(KeyboardInterrupt):
        import_hf.run(str(tmp_path / "hf"), tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_full_disk(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    save(tmp_path / "hf", "gpt2")
    monkeypatch.setattr(importing, "write_tensors", full)
    refused(tmp_path / "hf", "no space left on the device")
    assert checkpoint_files.MANIFEST not in {path.name for path in tmp_path.iterdir()}
