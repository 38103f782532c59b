import importlib.util
import pickle
import sys
import unicodedata

import pytest

from data_preprocessing.normalization import normalizer
from modelzoo.base_config import UserError
from tests.samples import TRICKY

DECOMPOSED = "e\u0301 caf\u0065\u0301 \u1100\u1161"


def test_off_changes_nothing():
    for text in [*TRICKY, DECOMPOSED]:
        assert normalizer(None)(text) is text


def test_nfc():
    nfc = normalizer("nfc")
    assert nfc(DECOMPOSED) == "é café 가"
    for text in [*TRICKY, DECOMPOSED]:
        assert nfc(text) == unicodedata.normalize("NFC", text)
        assert nfc(nfc(text)) == nfc(text)
    assert nfc("ﬁ ２") == "ﬁ ２"  # canonical forms only: no compatibility folding
    assert nfc(TRICKY[4]) is TRICKY[4]  # ASCII: nothing is built


@pytest.mark.skipif(importlib.util.find_spec("ftfy") is None, reason="ftfy is not installed")
def test_ftfy():
    ftfy = normalizer("ftfy")
    assert ftfy("â€œquotedâ€\x9d and cafÃ©") == '"quoted" and café'
    assert ftfy("plain ascii") == "plain ascii"


def test_a_missing_package_is_said_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(UserError, match=r"normalization=ftfy: .*pip install ftfy"):
        normalizer("ftfy")


def test_an_unknown_name_is_refused():
    with pytest.raises(UserError, match="normalization=nfd: expected one of nfc, ftfy, or null"):
        normalizer("nfd")


def test_workers_can_be_given_one():
    for name in (None, "nfc"):
        assert pickle.loads(pickle.dumps(normalizer(name)))(DECOMPOSED) == normalizer(name)(DECOMPOSED)
