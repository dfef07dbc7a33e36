"""LwM2M clients that others wrote, against the built program. What one of them cannot do is in tests/clients/README.md."""

import contextlib
import json
import os
import pathlib
import queue

import pytest
from clients import leshan_device
from gateway import ROOT, Application, Client, running_gateway

NODE = pathlib.Path(os.environ.get("NODE_DEVICE", ROOT / "target/clients/node/node_modules/lwm2m-node-lib"))


# lwm2m-node-lib leaves requests that it does not understand without an answer: so the wait for one is short.
SHORT_WAIT = "coap.ack_timeout = '500ms'\ncoap.max_retransmit = 2"


@pytest.fixture
def gateway():
    with running_gateway(SHORT_WAIT) as gateway:
        yield gateway


def test_leshan(gateway, tmp_path):
    """A device on Eclipse Leshan's client library, LwM2M 1.1."""
    device = leshan_device(gateway.uri, "leshan-1", tmp_path)
    with Application(gateway, "leshan-1") as application, device:
        data = application.expect("up/resp", "register")["data"]
        assert data["lwm2m"] == "1.1" and data["lt"] == 300 and "/3303/0" in data["objectList"], data
        device.wait_for("registered ")

        assert application.value("read", "/3/0/0") == "Eclipse Leshan"
        instance = application.command("read", path="/3303/0")
        assert {"path": "/3303/0/5700", "value": 20.5} in instance["content"], instance

        assert application.command("write", path="/3/0/15", type="String", value="Europe/Oslo")["code"] == "2.04"
        device.wait_for("written 15 Europe/Oslo")
        assert application.value("read", "/3/0/15") == "Europe/Oslo"
        written = application.command(
            "write", basePath="/1/0", content=[{"path": "2", "value": 3}, {"path": "3", "value": 40}]
        )
        assert written["code"] == "2.04", written
        assert application.value("read", "/1/0/2") == 3

        assert application.command("execute", path="/3/0/4")["code"] == "2.04"
        device.wait_for("executed 4")
        links = application.command("discover", path="/3303/0")
        assert any(link.startswith("</3303/0/5700>") for link in links["content"]), links
        assert application.command("read", path="/3303/7")["code"] == "4.04"
        changes_instances(application, "create", basePath="/3303", content=[{"path": "1/5700", "value": 1.5}])
        assert application.value("read", "/3303/1/5700") == 1.5
        changes_instances(application, "delete", path="/3303/1")

        observes(application, "/3303/0/5700", device, ("set 21.5", 21.5), ("set 22.5", 22.5))
        assert application.value("cancel-observe", "/3303/0/5700") == 22.5
        # Leshan updates by itself after a write to its lifetime only; here it is asked.
        device.say("update")
        device.wait_for("updated")
        assert application.value("read", "/3303/0/5700") == 22.5

        device.say("quit")
        device.wait_for("deregistered")
        expect_silence(application)


def test_lwm2m_node_lib(gateway, tmp_path):
    """Telefonica's lwm2m-node-lib, LwM2M 1.0 drafts."""
    command = ["node", str(NODE / "bin/iotagent-lwm2m-client.js")]
    with Application(gateway, "node-1") as application, Client(command, tmp_path) as device:
        for line in ("create /3/0", "set /3/0 0 Acme", "create /3303/0", "set /3303/0 5700 20.5"):
            device.say(line)
        device.say(f"connect 127.0.0.1 {gateway.coap} node-1 /")
        data = application.expect("up/resp", "register")["data"]
        assert data["lwm2m"] == "1.0" and data["objectList"] == ["/3/0", "/3303/0"], data
        device.wait_for("Device location: rd/")

        assert application.value("read", "/3/0/0") == "Acme"
        assert application.value("read", "/3303/0/5700") == 20.5
        assert application.command("read", path="/3/0/1")["code"] == "4.04"
        assert application.command("execute", path="/3/0/4", args="now")["code"] == "2.04"
        device.wait_for("Command arguments: now")
        assert application.command("write-attr", path="/3/0/0", pmin=5, pmax=90)["code"] == "2.04"
        assert application.command("discover", path="/3/0")["code"] == "2.05"
        # It knows the content formats of the drafts only, and says nothing to a TLV with the number of LwM2M 1.0.
        written = {"path": "/3/0/15", "type": "String", "value": "Europe/Oslo"}
        assert application.command("write", answered_as="coap_timeout", **written) == written
        assert application.value("read", "/3/0/0") == "Acme"

        observes(application, "/3303/0/5700", device, ("set /3303/0 5700 21.5", 21.5), ("set /3303/0 5700 22.5", 22.5))
        # It begins an answer to a cancellation, and never ends it.
        cancelled = {"path": "/3303/0/5700"}
        assert application.command("cancel-observe", answered_as="coap_timeout", **cancelled) == cancelled

        device.say("disconnect")
        device.wait_for("Disconnected")
        device.say("quit")
        expect_silence(application)


def changes_instances(application, kind, **data):
    """The device answers, and updates its registration with the new object list; it sends both at once."""
    application.client.publish("lwm2m/leshan-1/dn", json.dumps({"msgType": kind, "data": data}))
    heard = {payload["msgType"]: payload["data"] for _topic, payload in (application.receive(), application.receive())}
    assert heard[kind]["code"].startswith("2."), heard
    assert ("/3303/1" in heard["update"]["objectList"]) == (kind == "create"), heard


def observes(application, path, device, *changes):
    """Observes, and hears of each change."""
    application.value("observe", path)
    for line, value in changes:
        device.say(line)
        payload = application.expect("up/notify", "notify")
        assert payload["data"]["content"] == [{"path": path, "value": value}], payload


def expect_silence(application):
    """The device has left: nobody hears a command, and nothing comes up any more."""
    with contextlib.suppress(queue.Empty):
        application.client.publish("lwm2m/nobody/dn", "{}")
        raise AssertionError(application.receive(patience=1.0))
