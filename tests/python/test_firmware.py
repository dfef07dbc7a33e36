"""Large bodies in blocks (RFC 7959) with devices on the libraries of others, also over a line that loses datagrams."""

import base64
import contextlib
import hashlib
import random

import pytest
from clients import leshan_device
from device import Device
from gateway import Application, running_gateway
from line import Line

IMAGE = random.Random(7959).randbytes(1024 * 1024)
# Longer than a block, and than what `coap.block_size` and Californium take as one.
TEXT = "".join(random.Random(2119).choices("abcdefghijklmnopqrstuvwxyz0123456789 ", k=10_000))
LOSS = 0.1
# A thousand exchanges, of which one in five waits for its repetition.
SHORT_WAIT = "coap.ack_timeout = '25ms'"
TRANSFER = 90.0


@pytest.fixture(params=["a good line", "a lossy line"])
def line(request):
    """The gateway, and what devices take for it."""
    lossy = request.param == "a lossy line"
    with running_gateway(SHORT_WAIT if lossy else "") as gateway:
        if not lossy:
            yield gateway, gateway.uri
            return
        with Line(gateway.uri, LOSS, seed=7252) as line:
            yield gateway, line.uri
            share = line.lost / (line.lost + line.carried)
            assert line.lost > 200 and LOSS / 2 < share < LOSS * 2, (line.lost, line.carried)


def test_leshan_takes_a_firmware_image_and_gives_a_large_text(line, tmp_path):
    gateway, uri = line
    with Application(gateway, "leshan-5") as application, leshan_device(uri, "leshan-5", tmp_path) as device:
        application.expect("up/resp", "register")
        takes_the_image(application)
        device.wait_for(f"image of {len(IMAGE)} bytes, SHA-256 {sha256(IMAGE)}")
        assert application.value("read", "/5/0/3") == 2
        takes_and_gives_the_text(application)


def test_aiocoap_takes_a_firmware_image_and_gives_a_large_text(line):
    gateway, uri = line
    device = Device(uri, "aiocoap-5", {(5, 0, 1): "", (5, 0, 3): 0, (5, 0, 5): 0})
    with contextlib.closing(device), Application(gateway, "aiocoap-5") as application:
        device.register()
        application.expect("up/resp", "register")
        takes_the_image(application)
        # Not the images themselves: a failure would print both.
        assert sha256(device.objects.values[5, 0, 0]) == sha256(IMAGE)
        takes_and_gives_the_text(application)


def test_an_image_beyond_the_limit_is_refused_before_a_block_is_sent():
    limit = 64 * 1024
    with running_gateway(f"limits.sent_body_size = {limit}") as gateway:
        device = Device(gateway.uri, "aiocoap-6", {(5, 0, 3): 0})
        with contextlib.closing(device), Application(gateway, "aiocoap-6") as application:
            device.register()
            application.expect("up/resp", "register")
            answer = write(application, "/5/0/0", "Opaque", base64.b64encode(IMAGE).decode())
            assert answer["code"] == "4.00" and str(limit) in answer["reason"], answer
            assert (5, 0, 0) not in device.objects.values


@pytest.mark.parametrize("method", ["pull", "push"])
def test_leshan_updates_its_firmware(method, tmp_path):
    (tmp_path / "app-3.0.bin").write_bytes(IMAGE)
    lines = f"firmware.dir = '{tmp_path}'\nfirmware.public_uri = 'COAP_URI'\nfirmware.progress_interval = '1s'"
    with running_gateway(lines) as gateway, Application(gateway, "leshan-fw") as application:
        with leshan_device(gateway.uri, "leshan-fw", tmp_path) as device:
            application.expect("up/resp", "register")
            answer = application.command("firmware-update", image="app-3.0.bin", method=method)
            assert (answer["code"], answer["size"], answer["sha256"]) == ("2.01", len(IMAGE), sha256(IMAGE)), answer
            events = firmware_events(application)
            device.wait_for(f"image of {len(IMAGE)} bytes, SHA-256 {sha256(IMAGE)}")
            phases = list(dict.fromkeys(event["phase"] for event in events))
            assert phases == ["preparing", "downloading", "downloaded", "updating", "verifying", "succeeded"], events
            last = events[-1]
            assert (last["method"], last["bytes"], last["progress"]) == (method, len(IMAGE), 100), last


def firmware_events(application):
    """All events of an update, up to its end."""
    events = []
    while not events or events[-1]["phase"] not in ("succeeded", "failed", "cancelled", "deferred"):
        topic, payload = application.receive(TRANSFER)
        if topic == "up/firmware":
            events.append(payload["data"])
    return events


def takes_the_image(application):
    answer = write(application, "/5/0/0", "Opaque", base64.b64encode(IMAGE).decode())
    assert answer == {"code": "2.04", "codeMsg": "changed", "reqPath": "/5/0/0"}


def takes_and_gives_the_text(application):
    """By Block1 there, and by Block2 back."""
    assert write(application, "/5/0/1", "String", TEXT)["code"] == "2.04"
    assert application.value("read", "/5/0/1") == TEXT


def sha256(image):
    return hashlib.sha256(image).hexdigest()


def write(application, path, kind, value):
    return application.command("write", patience=TRANSFER, path=path, type=kind, value=value)
