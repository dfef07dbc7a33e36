"""The question that the command line asks at a terminal before it sends what cannot be undone."""

import os
import pty
import subprocess

import pytest
from gateway import PATIENCE, PROGRAM


def at_a_terminal(console, answer, *arguments):
    """Runs a command at a terminal, types an answer; gives the exit code, and what it printed beside its data."""
    terminal, its_own = pty.openpty()
    environment = os.environ | {"LWM2M_GATEWAY_AT": console.url, "LWM2M_GATEWAY_TOKEN": console.operator}
    process = subprocess.Popen(
        [PROGRAM, *arguments], stdin=its_own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True
    )
    os.close(its_own)
    try:
        os.write(terminal, f"{answer}\n".encode())
        _, words = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        os.close(terminal)
    return process.returncode, words


def test_a_command_that_is_confirmed_is_sent(console):
    device = console.device()
    code, words = at_a_terminal(console, "y", "exec", device.endpoint, "/3/0/4")
    assert (code, device.objects.executed) == (0, [((3, 0, 4), "")]), words
    assert f"execute /3/0/4 at {device.endpoint}? [y/N]" in words


@pytest.mark.parametrize("answer", ["", "n", "no", "yess"])
def test_a_command_that_is_not_confirmed_is_not_sent(answer, console):
    device = console.device()
    code, words = at_a_terminal(console, answer, "exec", device.endpoint, "/3/0/4")
    assert (code, device.objects.executed) == (2, [])
    assert "not confirmed: nothing was sent" in words


def test_a_factory_reset_wants_the_name_of_the_device(console):
    device = console.device()
    code, words = at_a_terminal(console, "y", "exec", device.endpoint, "/3/0/5")
    assert (code, device.objects.executed) == (2, []), words
    code, words = at_a_terminal(console, device.endpoint, "exec", device.endpoint, "/3/0/5")
    assert (code, device.objects.executed) == (0, [((3, 0, 5), "")]), words


def test_without_a_terminal_nothing_is_asked_and_nothing_is_sent(console):
    device = console.device()
    environment = os.environ | {"LWM2M_GATEWAY_AT": console.url, "LWM2M_GATEWAY_TOKEN": console.operator}
    command = [PROGRAM, "exec", device.endpoint, "/3/0/4"]
    done = subprocess.run(command, input="y\n", capture_output=True, env=environment, text=True, timeout=PATIENCE)
    assert (done.returncode, device.objects.executed) == (2, [])
    assert "needs --yes" in done.stderr
