"""`modelzoo report`: what it prints and writes, and what it refuses."""

import json

from typer.testing import CliRunner

from modelzoo.cli.main import app
from tests.report.runs import ENDS, evaluations, write_run


def run(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_summary_fits_a_terminal(tmp_path):
    long = {"a_domain_with_quite_a_long_name": (1.0, -0.9), **ENDS}
    result = run(write_run(tmp_path, evaluations=evaluations(long), samples=None), "--new", "newswire")
    assert result.exit_code == 0, result.exception
    lines = result.stdout.splitlines()
    assert lines[0] == "May the new model replace the old?"
    assert lines[1] == "Yes: better on newswire, with a_domain_with_quite_a_long_name, prose and code"
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1] == str(tmp_path / "report.html")
    (row,) = [line.split() for line in lines if line.startswith("newswire")]
    (domain,) = [d for d in json.loads((tmp_path / "report.json").read_text())["domains"] if d["name"] == "newswire"]
    assert row[:4] == ["newswire", "new", f"{domain['before']:.4f}", f"{domain['after']:.4f}"]
    assert row[-1] == domain["verdict"] == "better"
    assert "callback `samples` writes them" in result.stdout.replace("\n", " ")
    assert (tmp_path / "report.html").stat().st_size < 500_000
    assert not list(tmp_path.glob("*.partial"))


def test_json_is_what_the_file_holds(tmp_path):
    result = run(write_run(tmp_path), "--json")
    assert json.loads(result.stdout) == json.loads((tmp_path / "report.json").read_text())


def test_what_is_no_run_is_refused(tmp_path):
    assert "name a run's directory" in str(run(tmp_path).exception)
    assert "no set of the name novels" in str(run(write_run(tmp_path / "run"), "--new", "novels").exception)
    assert not (tmp_path / "run" / "report.html").exists()
