"""A device on Eclipse Leshan's client library that is given its server and its key by the bootstrap server."""

import socket

import pytest
from clients import leshan_device
from gateway import Application, free_ports, running_gateway

BOOTSTRAP_KEY = "0123456789abcdef"

ACCOUNT = """
[[account]]
match = "leshan-*"
verify = true
  [[account.server]]
  short_server_id = 7
  uri = "{uri}"
  lifetime = "5m"
  {security}
"""

GENERATED = """security = "psk"
  identity = "${endpoint_name}"
  secret = "generate"
"""

FORMATS = ["TLV", "SENML_JSON", "SENML_CBOR"]


def bootstrap_lines(folder, account):
    accounts = folder / "accounts.toml"
    accounts.write_text(account)
    return f"bootstrap.enable = true\nbootstrap.accounts = '{accounts}'"


def expect_device(gateway, server, endpoint, folder, *options):
    """The device has its server, registers with what it was given, and answers the first command."""
    device = leshan_device(server, endpoint, folder, *options)
    with Application(gateway, endpoint) as application, device:
        device.wait_for("bootstrapped")
        data = application.expect("up/resp", "register")["data"]
        assert data["lt"] == 300, data
        assert application.value("read", "/3/0/0") == "Eclipse Leshan"
        assert application.value("read", "/1/0/0") == 7
        device.say("quit")
        device.wait_for("deregistered")


@pytest.mark.parametrize("preferred", FORMATS)
def test_leshan_without_dtls(tmp_path, preferred):
    (port,) = free_ports(1, socket.SOCK_DGRAM)
    uri = f"coap://127.0.0.1:{port}"
    lines = bootstrap_lines(tmp_path, ACCOUNT.format(uri=uri, security=""))
    # The server is another listener than the one that the device knows.
    lines += f"\nlisteners.udp.default.role = 'bootstrap'\nlisteners.udp.second.bind = '127.0.0.1:{port}'"
    with running_gateway(lines) as gateway:
        expect_device(gateway, gateway.uri, "leshan-1", tmp_path, f"bootstrap={preferred}")
        log = gateway.log.read_text()
        assert "bootstrap finished" in log and "other values" not in log, log


@pytest.mark.parametrize("preferred", FORMATS)
def test_leshan_with_a_pre_shared_key(tmp_path, preferred):
    (port,) = free_ports(1, socket.SOCK_DGRAM)
    uri = f"coaps://127.0.0.1:{port}"
    keys = tmp_path / "bootstrap.psk"
    keys.write_text(f"leshan-2:{BOOTSTRAP_KEY}\n")
    lines = bootstrap_lines(tmp_path, ACCOUNT.format(uri=uri, security=GENERATED))
    lines += f"\nbootstrap.psk_file = '{keys}'"
    dtls = f"""
        listeners.dtls.default.role = 'bootstrap'
        listeners.dtls.second.bind = '127.0.0.1:{port}'
        listeners.dtls.second.role = 'registration'
        """
    options = [f"bootstrap={preferred}", f"psk=leshan-2:{BOOTSTRAP_KEY}"]
    with running_gateway(lines, dtls) as gateway:
        expect_device(gateway, gateway.coaps_uri, "leshan-2", tmp_path, *options)
        assert BOOTSTRAP_KEY not in gateway.log.read_text()
