"""Fixtures of the whole suite."""

import pytest
import torch

from tests.browser import Browser
from tests.runs import write_dataset

torch.set_num_threads(1)  # tiny models: a second thread costs more than it gives, and far more on a busy machine


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """The path of a small preprocessed dataset; not to be written to."""
    return write_dataset(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A headless Chromium; only for tests that are skipped where there is none."""
    opened = Browser(tmp_path_factory.mktemp("profile"))
    yield opened
    opened.close()


@pytest.fixture(autouse=True)
def _same_random_numbers():
    torch.manual_seed(0)
