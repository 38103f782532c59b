import pytest

from data_preprocessing.pipeline import run
from modelzoo.base_config import UserError
from tests.data_preprocessing.corpus import config, files_of


def test_without_ray_it_says_how_to_get_it(base, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(UserError, match=r"executor=ray: .*pip install 'modelzoo\[ray\]'"):
        run(config(executor="ray"), base)


@pytest.mark.long
def test_a_local_cluster_gives_the_same_bytes(base):
    pytest.importorskip("ray")
    run(config(workers=1), base)
    run(config(executor="ray", workers=2, output="other"), base)
    assert files_of(base / "out") == files_of(base / "other")
