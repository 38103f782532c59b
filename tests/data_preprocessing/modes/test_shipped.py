"""The `mode` of every shipped YAML."""

import pytest
import yaml
from pydantic import TypeAdapter

from data_preprocessing.config import AnyMode
from data_preprocessing.modes import ModeConfig
from data_preprocessing.modes.lm import LmMode
from modelzoo.base_config import kind_of
from modelzoo.config_files import configs_dir
from tests.data_preprocessing.modes import tokenizer_with

WRITTEN = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8")).get("mode", {"kind": "lm"})
    for path in (configs_dir() / "preprocess").glob("*.yaml")
}


def test_every_kind_is_shipped():
    modes = [cls for cls in ModeConfig.__subclasses__() if cls.__module__.startswith("data_preprocessing.")]
    assert {mode["kind"] for mode in WRITTEN.values()} == set(map(kind_of, modes))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_shipped_mode_validates_and_fits_the_tokenizer_it_names(name):
    mode = TypeAdapter(AnyMode).validate_python(WRITTEN[name])
    fim = configs_dir() / "tokenizer" / "python_stdlib_fim.yaml"
    special = yaml.safe_load(fim.read_text(encoding="utf-8"))["special_tokens"][1:] if name == "fim" else ()
    mode.prepare(tokenizer_with(*special))
    assert isinstance(mode, LmMode) == (WRITTEN[name]["kind"] == "lm")
