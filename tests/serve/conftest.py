"""Fixtures of the tests of the server."""

import pytest


@pytest.fixture
def served():
    from tests.serve.served import Served  # not above: without the extra `serve` there is no such server

    with Served() as served:
        yield served
