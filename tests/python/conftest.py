"""What the tests of the console share."""

import tempfile

import pytest
from console import Console, settings
from gateway import running_gateway


@pytest.fixture(scope="module")
def running():
    with tempfile.TemporaryDirectory() as folder:
        lines, port, tokens = settings(folder)
        with running_gateway(lines) as gateway:
            yield Console(gateway, port, tokens)


@pytest.fixture
def console(running):
    yield running
    running.leave()
