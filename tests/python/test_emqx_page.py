"""The console's page below EMQX, in a browser: the plugin with a stand-in for EMQX serves it in a frame."""

import contextlib
import json
import os
import pathlib
import platform
import re
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

try:
    from playwright.sync_api import expect, sync_playwright
except ImportError as missing:
    if "CI" in os.environ:
        raise
    pytest.skip(f"{missing.name} is not installed", allow_module_level=True)

import device as lwm2m
from console import CHROMIUM, PATIENCE_MS, THERMOMETER
from gateway import PATIENCE, PROGRAM, ROOT, free_ports, running_gateway

PLUGIN = ROOT / "deploy/emqx/plugin"
TESTS = ROOT / "tests/emqx_plugin"
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
ENDPOINT = "urn:dev:os:0023c7"

for needed in (shutil.which("erlc"), CHROMIUM.exists()):
    if not needed:
        assert "CI" not in os.environ, "Erlang or Debian's chromium is not installed"
        pytest.skip("Erlang or Debian's chromium is not installed", allow_module_level=True)
expect.set_options(timeout=PATIENCE_MS)


def install(folder):
    """Lays out the plugin as EMQX unpacks it, with the built program, and compiles the stand-in."""
    app, standin = folder / "lwm2m_gateway", folder / "standin"
    (app / "ebin").mkdir(parents=True)
    standin.mkdir()
    sources = sorted(PLUGIN.glob("src/*.erl"))
    subprocess.run(["erlc", "-o", app / "ebin", *sources], check=True)
    subprocess.run(["erlc", "-o", standin, *TESTS.glob("standin/*.erl"), TESTS / "page_server.erl"], check=True)
    text = (PLUGIN / "src/lwm2m_gateway.app.src").read_text().replace("@VERSION@", "0")
    (app / "ebin/lwm2m_gateway.app").write_text(text.replace("@MODULES@", ", ".join(path.stem for path in sources)))
    program = app / "priv/bin" / ARCHITECTURE / "lwm2m-gateway"
    program.parent.mkdir(parents=True)
    program.symlink_to(PROGRAM)
    return app / "ebin", standin


class Emqx:
    """The stand-in for EMQX, whose plugin has a device."""

    def __init__(self, folder, mqtt):
        ebin, standin = install(folder)
        self.port, admin = free_ports(2)
        (self.coap,) = free_ports(1, socket.SOCK_DGRAM)
        configuration = {
            "upstream": "mqtt",
            "mqtt_broker": f"127.0.0.1:{mqtt}",
            "udp_bind": f"127.0.0.1:{self.coap}",
            "admin_bind": f"127.0.0.1:{admin}",
        }
        command = ["erl", "-noshell", "-pa", ebin, "-pa", standin, "-run", "page_server", "main"]
        self.log = (folder / "emqx.log").open("wb+")
        self.process = subprocess.Popen(
            [*command, folder / "data", str(self.port), json.dumps(configuration)],
            stdin=subprocess.PIPE,
            stdout=self.log,
            stderr=self.log,
        )
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, role="administrator", **headers):
        """Returns the status of a request to the plugin's API."""
        request = urllib.request.Request(f"{self.url}/api/v5/plugin_api/lwm2m_gateway/{path}", method=method)
        request.add_header("Cookie", f"emqx_auth={role}")
        for name, value in headers.items():
            request.add_header(name.replace("_", "-"), value)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def wait_until_serving(self):
        end = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(OSError):
                if self.ask("GET", "api/v1/session") == 200:
                    return
            assert self.process.poll() is None and time.monotonic() < end, self.output()
            time.sleep(0.1)

    def output(self):
        return pathlib.Path(self.log.name).read_text(errors="replace")

    def stop(self):
        self.process.stdin.close()
        try:
            assert self.process.wait(PATIENCE) == 0, self.output()
        finally:
            self.process.kill()
            self.log.close()


@pytest.fixture(scope="module")
def emqx(tmp_path_factory):
    """A plugin whose devices are clients of another gateway's embedded broker, with a registered device."""
    folder = tmp_path_factory.mktemp("p")
    with running_gateway() as broker:
        emqx = Emqx(folder, broker.mqtt)
        try:
            emqx.wait_until_serving()
            device = register(emqx)
            emqx.device = device
            yield emqx
            device.close()
        finally:
            emqx.stop()


def register(emqx):
    """Registers a device. The gateway refuses it as long as it has not reached the broker."""
    device = lwm2m.Device(f"coap://127.0.0.1:{emqx.coap}", ENDPOINT, THERMOMETER)
    end = time.monotonic() + PATIENCE
    while True:
        try:
            device.register()
            return device
        except AssertionError as refused:
            assert time.monotonic() < end, f"{refused}\n{emqx.output()}"
            time.sleep(0.2)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@contextlib.contextmanager
def dashboard(browser, emqx, role):
    """Opens the dashboard, and yields the frame of the plugin. Nothing but EMQX is asked, and no policy is violated."""
    context = browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    faults = []
    try:
        if role:
            context.add_cookies([{"name": "emqx_auth", "value": role, "url": emqx.url, "httpOnly": True}])
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("request", lambda request: request.url.startswith(emqx.url) or faults.append(request.url))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: "Content Security" in line.text and faults.append(line.text))
        page.goto(emqx.url)
        yield page.frame_locator("iframe")
    finally:
        context.close()
    assert faults == []


def open_device(frame):
    frame.get_by_role("navigation", name="Pages").get_by_role("link", name="Devices").click()
    frame.get_by_role("link", name=ENDPOINT).click()
    expect(frame.get_by_role("heading", name=ENDPOINT, exact=True)).to_be_visible()


def test_an_administrator_reads_and_writes_in_the_frame_without_a_token(browser, emqx):
    with dashboard(browser, emqx, "administrator") as frame:
        expect(frame.get_by_role("heading", name="Overview")).to_be_visible()
        expect(frame.get_by_role("button", name="Log out")).to_have_count(0)
        open_device(frame)
        frame.get_by_role("button", name="Expand all").click()
        row = frame.locator("tr[data-key='/3/0/14']")
        row.press("r")
        expect(row).to_contain_text("+02:00")
        row.press("w")
        frame.get_by_label("UTC Offset").fill("+03:00")
        frame.get_by_role("dialog").get_by_role("button", name="Write", exact=True).click()
        expect(row).to_contain_text("2.04")
        assert emqx.device.objects.values[(3, 0, 14)] == "+03:00"


def test_notifications_are_polled_since_emqx_passes_no_stream_on(browser, emqx):
    with dashboard(browser, emqx, "administrator") as frame:
        open_device(frame)
        row = frame.locator("tr[data-key='/3303/0/5700']")
        row.press("o")
        expect(row).to_contain_text("observed (console")
        emqx.device.notify((3303, 0, 5700), 48.5)
        expect(row).to_contain_text("48.5")
        frame.get_by_role("tab", name="Activity").click()
        expect(frame.locator(".k-notify").first).to_be_visible()


def test_a_viewer_looks_and_commands_nothing(browser, emqx):
    with dashboard(browser, emqx, "viewer") as frame:
        expect(frame.get_by_text("(viewer)")).to_be_visible()
        open_device(frame)
        expect(frame.get_by_role("button", name=re.compile("Read|Write|Observe|End registration"))).to_have_count(0)
    path = "api/v1/devices/urn%3Adev%3Aos%3A0023c7"
    assert emqx.ask("GET", path, "viewer") == 200
    assert emqx.ask("DELETE", path, "viewer") == 403


def test_whoever_has_not_logged_in_gets_nothing(browser, emqx):
    with dashboard(browser, emqx, None) as frame:
        expect(frame.get_by_text("UNAUTHORIZED").first).to_be_visible()


def test_another_site_cannot_use_the_cookie(emqx):
    path = "api/v1/devices/urn%3Adev%3Aos%3A0023c7"
    assert emqx.ask("DELETE", path, sec_fetch_site="cross-site") == 403
    assert emqx.ask("DELETE", path, origin="http://elsewhere.example") == 403
    assert emqx.ask("GET", path) == 200
