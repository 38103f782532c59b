"""Models of the Hugging Face hub: asked for aloud, no more than is needed, and what is said without a network."""

import sys
import types

import pytest

from modelzoo import tokenizer_files
from modelzoo.base_config import UserError
from modelzoo.cli import import_hf
from tests.convert.hf_models import save


def test_the_hub_is_asked_aloud_and_for_what_is_needed(tmp_path, monkeypatch, capsys):
    save(tmp_path / "cache", "gpt_neox")
    asked = []

    def snapshot_download(repository, revision, allow_patterns):
        asked.append((repository, revision, allow_patterns))
        return str(tmp_path / "cache")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=snapshot_download))
    report = import_hf.run("EleutherAI/pythia-14m@step3000", tmp_path / "ours")
    assert "taken as a repository of the Hugging Face hub" in capsys.readouterr().err
    assert report["from"] == "EleutherAI/pythia-14m@step3000"
    assert [call[:2] for call in asked] == [("EleutherAI/pythia-14m", "step3000")]
    assert {"config.json", "model.safetensors", "model-*.safetensors", "tokenizer.json"} <= set(asked[0][2])
    assert not any(pattern.endswith(".bin") for pattern in asked[0][2])


def test_no_network_and_no_package(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("We couldn't connect to 'https://huggingface.co'\nand more")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", types.SimpleNamespace(snapshot_download=offline))
    with pytest.raises(UserError, match=r"hf://owner/name: cannot be downloaded .*couldn't connect.*its files by hand"):
        import_hf.run("owner/name", tmp_path / "ours")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match=r"needs the package huggingface_hub; install it .*modelzoo\[hub\]"):
        import_hf.run("hf://owner/name@v1", tmp_path / "ours")
    assert tokenizer_files.HUB.fullmatch("hf://owner/name@v1")
    (tmp_path / "models").mkdir()
    with pytest.raises(UserError, match="models/typo: no such directory; give"):
        import_hf.run("models/typo", tmp_path / "ours")
    assert [path.name for path in tmp_path.iterdir()] == ["models"]
