"""`modelzoo demo`, whole: minutes, and the proof that a model learned something worth showing."""

import pytest

from tests.cli.test_cli import modelzoo


@pytest.mark.long
def test_the_demo_beats_gzip_and_shows_where_things_are(tmp_path):
    shown = modelzoo("demo", cwd=tmp_path).stdout
    assert "ahead of gzip -9" in shown
    assert "NOT" not in shown
    assert (tmp_path / "runs" / "gptj_tiny" / "loss.png").stat().st_size > 10_000
    again = modelzoo("demo", cwd=tmp_path)
    assert "already complete" in again.stderr
