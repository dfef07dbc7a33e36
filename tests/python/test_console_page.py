"""The console's page in a browser, against the built program: what people do with it, at both widths and schemes."""

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request

import pytest

try:
    from axe_playwright_python.sync_playwright import Axe
    from playwright.sync_api import expect, sync_playwright
except ImportError as missing:
    if "CI" in os.environ:
        raise
    pytest.skip(f"{missing.name} is not installed", allow_module_level=True)

import console_pictures
from console import CHROMIUM, PATIENCE_MS, ROLES, THERMOMETER, WIDTHS, Tab, Ticking
from gateway import ROOT, Application

PAGE = ROOT / "src/console/page"
# All files of the page, as they are served: without comments, types and spaces.
BUDGET = 119 * 1024
LOOKS = [("desktop", "light"), ("desktop", "dark"), ("phone", "light"), ("phone", "dark")]
COMMANDS = "/devices/{endpoint}/commands"
EVENTS = "/devices/{endpoint}/events"

if not CHROMIUM.exists():
    assert "CI" not in os.environ, "Debian's chromium is not installed"
    pytest.skip("Debian's chromium is not installed", allow_module_level=True)
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_tab(browser, console):
    """Opens tabs, which have no faults at the end of the test."""
    tabs = []

    def opened(width="desktop", scheme="light"):
        tabs.append(Tab(browser, console, WIDTHS[width], scheme))
        return tabs[-1]

    yield opened
    for tab in tabs:
        tab.close()
    assert [tab.faults for tab in tabs if tab.faults] == []


@pytest.fixture(params=LOOKS, ids="-".join)
def tab(request, open_tab):
    return open_tab(*request.param)


def needs(console, *paths):
    """Skips a test of what the API of this gateway does not have."""
    missing = [path for path in paths if not console.has(path)]
    if missing:
        pytest.skip(f"the API has no {', '.join(missing)}")


def finds_nothing(page):
    """Neither axe-core has a complaint, nor does the page scroll sideways."""
    expect(page.locator(".loading")).to_have_count(0)
    found = Axe().run(page).response["violations"]
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == []
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


@pytest.mark.parametrize("look", LOOKS, ids="-".join)
def test_no_part_of_the_page_has_a_barrier(look, console, open_tab):
    device = console.device()
    tab = open_tab(*look)
    tab.log_in()
    finds_nothing(tab.page)
    for where, there in [
        ("#/devices", device.endpoint),
        ("#/devices?q=nothing-like-this", "No device matches"),
        (f"#/device/{device.endpoint}", "Sensor Value"),
        (f"#/device/{device.endpoint}/activity", "No pending commands"),
        (f"#/device/{device.endpoint}/details", "none announced"),
        ("#/device/none", "not registered"),
        ("#/failures", "Failures"),
        ("#/health", "Audit log"),
        ("#/nowhere", "There is no such page"),
    ]:
        tab.go(where)
        expect(tab.page.locator("main").get_by_text(there).first).to_be_visible()
        finds_nothing(tab.page)


def test_the_token_of_the_link_leaves_the_address_bar(console, tab):
    tab.log_in()
    assert "token" not in tab.page.url and console.operator not in tab.page.url
    tab.page.reload()
    expect(tab.page.get_by_role("heading", name="Overview")).to_be_visible()


def test_a_wrong_token_is_refused_in_words_and_a_right_one_logs_in(console, tab):
    tab.page.goto(console.url)
    finds_nothing(tab.page)
    tab.page.get_by_label("Token").fill("lgw_wrong")
    tab.page.get_by_role("button", name="Log in").click()
    expect(tab.page.get_by_role("alert")).to_contain_text("does not accept this token")
    tab.page.get_by_label("Token").fill(console.operator)
    tab.page.get_by_role("button", name="Log in").click()
    expect(tab.page.get_by_role("heading", name="Overview")).to_be_visible()


def test_a_device_is_found_by_a_part_of_its_name(console, tab):
    wanted, other = console.device(), console.device("meter")
    tab.log_in()
    tab.go("#/devices")
    expect(tab.page.get_by_role("link", name=other.endpoint)).to_be_visible()
    tab.page.get_by_label("Search by name").fill(wanted.endpoint[3:])
    expect(tab.page.locator("tbody tr")).to_have_count(1)
    expect(tab.page.get_by_text("1 device. That is all.")).to_be_visible()
    tab.page.get_by_role("link", name=wanted.endpoint).click()
    expect(tab.page.get_by_role("heading", name=wanted.endpoint)).to_be_visible()


def test_values_are_read_written_and_executed(console, tab):
    needs(console, COMMANDS)
    device = console.device()
    tab.open(device.endpoint)
    tab.page.get_by_role("button", name="Expand all").click()
    tab.act("/3/0/14", "r")
    expect(tab.row("/3/0/14")).to_contain_text("+02:00")
    expect(tab.row("/3/0/14")).to_contain_text("2.05")
    tab.act("/3/0/14", "w")
    finds_nothing(tab.page)
    tab.page.get_by_label("UTC Offset").fill("+03:00")
    tab.page.get_by_role("dialog").get_by_role("button", name="Write", exact=True).click()
    expect(tab.row("/3/0/14")).to_contain_text("2.04")
    assert device.objects.values[(3, 0, 14)] == "+03:00"
    tab.act("/3/0/4", "x")
    tab.page.get_by_role("dialog").get_by_role("button", name="Execute").click()
    expect(tab.row("/3/0/4")).to_contain_text("2.04")
    assert device.objects.executed == [((3, 0, 4), "")]
    finds_nothing(tab.page)


def test_a_number_outside_its_type_is_not_sent(console, tab):
    needs(console, COMMANDS)
    tab.open(console.device().endpoint)
    tab.page.get_by_role("button", name="Expand all").click()
    tab.act("/1/0/1", "w")
    tab.page.get_by_label("Lifetime", exact=True).fill("soon")
    tab.page.get_by_role("dialog").get_by_role("button", name="Write").click()
    expect(tab.page.get_by_role("alert")).to_contain_text("is not a whole number")


def test_the_factory_reset_wants_the_name_of_the_device(console, tab):
    needs(console, COMMANDS)
    device = console.device()
    tab.open(device.endpoint)
    tab.page.get_by_role("button", name="Expand all").click()
    tab.act("/3/0/5", "x")
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_role("button", name="Execute").click()
    expect(tab.page.get_by_role("alert")).to_contain_text("not the name of the device")
    assert device.objects.executed == []
    finds_nothing(tab.page)
    dialog.get_by_label("Type the name of the device").fill(device.endpoint)
    dialog.get_by_role("button", name="Execute").click()
    expect(tab.row("/3/0/5")).to_contain_text("2.04")
    assert device.objects.executed == [((3, 0, 5), "")]


# A resource of each type, and one with several instances.
TYPED = {
    (1, 0, 1): 300,
    (1, 0, 6): False,
    (2, 0, 2): 1,
    (3, 0, 13): 1_700_000_000,
    (3, 0, 14): "+02:00",
    (3308, 0, 5900): 20.5,
    (3339, 0, 5522): "clip",
}


def test_each_type_has_its_input(console, tab):
    needs(console, COMMANDS)
    device = console.device("typed", values=TYPED)
    tab.open(device.endpoint)
    tab.page.get_by_role("button", name="Expand all").click()
    page, dialog = tab.page, tab.page.get_by_role("dialog")

    def written(path, value):
        finds_nothing(page)
        dialog.get_by_role("button", name="Write", exact=True).click()
        expect(dialog).to_have_count(0)
        expect(tab.row(path)).to_contain_text("2.04")
        # The result of the write before it may still be there.
        key = tuple(int(segment) for segment in path.split("/")[1:])
        for _ in range(PATIENCE_MS // 50):
            if device.objects.values[key] == value:
                break
            page.wait_for_timeout(50)
        assert device.objects.values[key] == value

    def asked(path, label):
        tab.act(path, "w")
        return dialog.get_by_label(label, exact=True)

    asked("/1/0/1", "Lifetime").fill("86400")
    written("/1/0/1", 86400)
    asked("/1/0/6", "Notification Storing When Disabled or Offline").check()
    written("/1/0/6", True)
    asked("/3/0/13", "Current Time").fill("2026-11-27T20:31:05")
    at = page.evaluate("new Date('2026-11-27T20:31:05').getTime() / 1000")
    written("/3/0/13", at)
    asked("/3/0/14", "UTC Offset").fill("-05:00")
    written("/3/0/14", "-05:00")
    field = asked("/3308/0/5900", "Set Point Value")
    field.fill("warm")
    dialog.get_by_role("button", name="Write", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text('"warm" is not a number')
    field.fill("-1.25")
    written("/3308/0/5900", -1.25)

    field = asked("/3339/0/5522", "Clip")
    field.fill("00 ff")
    written("/3339/0/5522", b"\x00\xff")
    asked("/3339/0/5522", "Clip")
    dialog.get_by_label("Form of the bytes").select_option("Base64")
    dialog.get_by_label("Clip", exact=True).fill("/wD+")
    written("/3339/0/5522", b"\xff\x00\xfe")
    asked("/3339/0/5522", "Clip")
    dialog.get_by_label("Form of the bytes").select_option("File")
    clip = {"name": "clip", "mimeType": "audio/wav", "buffer": b"\xfeRIFF"}
    dialog.get_by_label("Clip, file").set_input_files(clip)
    written("/3339/0/5522", b"\xfeRIFF")


def test_several_instances_of_a_resource_are_rows(console, tab):
    needs(console, COMMANDS)
    device = console.device("typed", values=TYPED)
    tab.open(device.endpoint)
    tab.page.get_by_role("button", name="Expand all").click()
    tab.act("/2/0/2", "w")
    dialog = tab.page.get_by_role("dialog")
    dialog.get_by_label("Instance").first.fill("101")
    dialog.get_by_label("ACL", exact=True).first.fill("15")
    dialog.get_by_role("button", name="Add an instance").click()
    dialog.get_by_label("ACL", exact=True).nth(1).fill("1")
    row = [dialog.get_by_label("Instance"), dialog.get_by_label("ACL", exact=True), dialog.get_by_text("Remove")]
    boxes = [part.first.bounding_box() for part in row]
    assert len({round(box["y"] + box["height"] / 2) // 4 for box in boxes}) == 1, f"not on one line: {boxes}"
    finds_nothing(tab.page)
    dialog.get_by_role("button", name="Write", exact=True).click()
    expect(tab.page.get_by_text("2.04").first).to_be_visible()
    assert device.objects.values[(2, 0, 2)] == {101: 15, 102: 1}


def test_attributes_instances_and_copies_have_dialogs(console, tab):
    needs(console, COMMANDS)
    device = console.device()
    tab.open(device.endpoint)
    page, dialog = tab.page, tab.page.get_by_role("dialog")

    def choose(path, action):
        page.get_by_role("button", name=f"More for {path}", exact=True).click()
        finds_nothing(page)
        dialog.get_by_role("button", name=action).click()

    choose("/3303/0/5700", "Attributes")
    dialog.get_by_label("pmin", exact=True).fill("soon")
    dialog.get_by_role("button", name="Write attributes").click()
    expect(page.get_by_role("alert")).to_contain_text("is not a number")
    dialog.get_by_label("pmin", exact=True).fill("10")
    finds_nothing(page)
    dialog.get_by_role("button", name="Write attributes").click()
    expect(tab.row("/3303/0/5700")).to_contain_text("2.04")
    assert device.objects.attributes[(3303, 0, 5700)] == {"pmin": "10"}

    choose("/3303/0/5700", "Copy as")
    finds_nothing(page)
    expect(dialog.get_by_text(f"lwm2m-gateway read '{device.endpoint}' /3303/0/5700")).to_be_visible()
    page.keyboard.press("Escape")

    choose("/1", "Create an instance")
    expect(dialog.get_by_label("Lifetime", exact=True)).to_be_visible()
    finds_nothing(page)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)

    choose("/3303/0", "Delete")
    finds_nothing(page)
    dialog.get_by_role("button", name="Delete").click()
    expect(page.get_by_text("2.02").first).to_be_visible()
    assert not [path for path in device.objects.values if path[:2] == (3303, 0)]


def test_64_bit_numbers_keep_their_digits(console, tab):
    needs(console, COMMANDS)
    device = console.device(values=THERMOMETER | {(1, 0, 1): 9007199254740993})
    tab.open(device.endpoint)
    tab.page.get_by_role("button", name="Expand all").click()
    tab.act("/1/0", "r")
    expect(tab.row("/1/0/1")).to_contain_text("9007199254740993")


def test_an_observation_shows_three_notifications_and_a_chart(console, tab):
    needs(console, COMMANDS, EVENTS)
    with Ticking(console.device()) as ticking:
        tab.open(ticking.device.endpoint)
        tab.act("/3303/0/5700", "o")
        expect(tab.row("/3303/0/5700")).to_contain_text("observed (console")
        tab.page.get_by_role("tab", name="Activity").click()
        expect(tab.page.locator(".k-notify").nth(2)).to_be_visible()
        finds_nothing(tab.page)
        tab.page.get_by_role("tab", name="Objects").click()
        tab.page.get_by_role("button", name="Chart of Sensor Value").click()
        expect(tab.page.get_by_role("dialog").locator("svg.chart")).to_be_visible()
        tab.page.get_by_text("values as a table").click()
        assert tab.page.get_by_role("dialog").locator("tbody tr").count() >= 3
        finds_nothing(tab.page)


def test_an_observation_of_an_application_is_left_alone(console, tab):
    needs(console, COMMANDS)
    device = console.device()
    with Application(console.gateway, device.endpoint) as application:
        application.value("observe", "/3303/0/5700")
        tab.open(device.endpoint)
        expect(tab.row("/3303/0/5700")).to_contain_text("observed (mqtt)")
        expect(tab.row("/3303/0/5700").get_by_role("button", name="Observe")).to_have_count(0)


def test_a_command_waits_for_a_sleeping_device_and_is_answered_when_it_wakes(console, tab):
    needs(console, COMMANDS)
    device = console.device("meter", binding="UQ")
    tab.open(device.endpoint)
    expect(tab.page.locator(".bar").get_by_text("asleep")).to_be_visible()
    tab.act("/3303/0/5700", "r")
    tab.page.get_by_role("button", name="Queue until it wakes").click()
    expect(tab.row("/3303/0/5700")).to_contain_text("Pending")
    tab.page.get_by_role("tab", name="Activity").click()
    expect(tab.page.get_by_role("tab", name="1 pending")).to_be_visible()
    finds_nothing(tab.page)
    device.update()
    expect(tab.page.locator(".log .result").first).to_contain_text("2.05")
    tab.page.get_by_role("tab", name="Objects").click()
    expect(tab.row("/3303/0/5700")).to_contain_text("21.5")


def test_a_waiting_command_is_withdrawn(console, tab):
    needs(console, COMMANDS, "/devices/{endpoint}/queue/{number}")
    device = console.device("meter", binding="UQ")
    tab.open(device.endpoint)
    expect(tab.page.locator(".bar").get_by_text("asleep")).to_be_visible()
    console.ask(f"/devices/{device.endpoint}/commands", "POST", {"msgType": "read", "data": {"path": "/3303/0"}})
    tab.page.get_by_role("tab", name="Activity").click()
    tab.page.get_by_role("button", name="Withdraw read /3303/0").click()
    expect(tab.page.get_by_text("No pending commands")).to_be_visible()


def test_a_trace_shows_messages_and_gives_a_pcap(console, tab, tmp_path):
    needs(console, "/traces")
    device = console.device()
    tab.open(device.endpoint)
    tab.row("/3303/0/5700").wait_for()
    tab.page.keyboard.press("t")
    tab.page.get_by_role("button", name="Start a trace").click()
    finds_nothing(tab.page)
    tab.page.get_by_role("dialog").get_by_role("button", name="Start").click()
    expect(tab.page.get_by_text("No message yet")).to_be_visible()
    device.update()
    update = tab.page.locator(".trace summary").first
    expect(update).to_contain_text("0.02 POST")
    update.click()
    expect(tab.page.locator(".trace").get_by_text("Uri-Path").first).to_be_visible()
    if console.has(COMMANDS):
        read = {"msgType": "read", "data": {"path": "/3303/0/5700"}}
        console.ask(f"/devices/{device.endpoint}/commands?wait=10", "POST", read)
        expect(tab.page.locator(".trace")).to_contain_text("/3303/0/5700 = 21.5")
    finds_nothing(tab.page)
    with tab.page.expect_download() as download:
        tab.page.get_by_role("button", name="Download pcap").click()
    pcap = tmp_path / "trace.pcap"
    download.value.save_as(pcap)
    assert pcap.read_bytes()[:4] in (b"\xd4\xc3\xb2\xa1", b"\xa1\xb2\xc3\xd4")
    if shutil.which("tshark"):
        coap = subprocess.run(["tshark", "-r", pcap, "-Y", "coap"], capture_output=True, text=True, check=True)
        assert "POST" in coap.stdout
    tab.page.get_by_role("button", name="End", exact=True).click()
    expect(tab.page.get_by_text("This trace has ended")).to_be_visible()
    expect(update).to_contain_text("0.02 POST")


def test_an_address_that_fails_is_traced_before_it_registers(console, tab):
    needs(console, "/failures", "/traces")
    send_register(console.gateway, "ep=misconfigured", "lt=soon", "lwm2m=1.0", "b=U")
    tab.log_in()
    tab.go("#/failures")
    row = tab.page.get_by_role("row").filter(has_text="lt is not a whole number of seconds").first
    row.get_by_role("button", name="Trace this address").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Start").click()
    expect(tab.page.get_by_text("Trace of 127.0.0.1")).to_be_visible()
    send_register(console.gateway, "ep=misconfigured", "lt=soon", "lwm2m=1.0", "b=U")
    expect(tab.page.locator(".trace")).to_contain_text("4.00 Bad Request")
    tab.page.get_by_role("button", name="End", exact=True).click()


def test_a_kicked_device_is_gone(console, tab):
    device = console.device()
    tab.open(device.endpoint)
    tab.page.get_by_role("button", name="Kick").click()
    finds_nothing(tab.page)
    tab.page.get_by_role("dialog").get_by_role("button", name="Kick").click()
    expect(tab.page.get_by_text(re.compile("registration ended: operator|not registered any more"))).to_be_visible()
    tab.go("#/health")
    expect(tab.page.get_by_role("row", name=re.compile(f"kick.*{device.endpoint}"))).to_be_visible()


def test_a_token_that_is_revoked_leads_to_the_login(console, tab):
    console.grant(ROLES)
    tab.open(console.device().endpoint, console.tokens.of["guest"])
    console.grant(["operator", "viewer"])
    expect(tab.page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(tab.page.get_by_role("alert")).to_contain_text("logged out")
    finds_nothing(tab.page)


def test_a_viewer_has_no_actions(console, tab):
    tab.open(console.device().endpoint, console.viewer)
    expect(tab.row("/3303/0/5700")).to_be_visible()
    for name in ("Kick", "Trace", "Observe", "Write", "Execute", "Read"):
        expect(tab.page.get_by_role("button", name=re.compile(f"^{name}"))).to_have_count(0)


def test_text_of_a_device_is_never_markup(console, tab):
    dialogs = []
    tab.page.on("dialog", lambda dialog: (dialogs.append(dialog.message), dialog.dismiss()))
    markup = "<img src=x onerror=alert(1)>"
    device = console.device(markup, values={(3, 0, 0): markup})
    tab.open(device.endpoint)
    tab.page.get_by_role("tab", name="Details").click()
    expect(tab.page.get_by_text(device.endpoint).first).to_be_visible()
    tab.go("#/devices")
    expect(tab.page.get_by_role("link", name=device.endpoint)).to_be_visible()
    finds_nothing(tab.page)
    assert dialogs == []


def test_a_rejected_registration_is_explained(console, tab):
    needs(console, "/failures")
    send_register(console.gateway, "ep=misconfigured", "lt=soon", "lwm2m=1.0", "b=U")
    tab.log_in()
    tab.go("#/failures")
    row = tab.page.get_by_role("row").filter(has_text="lt is not a whole number of seconds")
    expect(row).to_contain_text("Registration rejected")
    expect(row).to_contain_text("4.00")
    expect(row).to_contain_text("Correct the endpoint name, the lifetime or the object list")
    finds_nothing(tab.page)
    tab.go("#/overview")
    expect(tab.page.get_by_text("of failure in the last hour")).to_be_visible()


@pytest.mark.parametrize("look", LOOKS, ids="-".join)
def test_a_list_of_many_devices_stays_readable(look, console, open_tab):
    """The API tells of 10,000 devices; the page shows them by the hundred."""

    def page_of(route):
        first = int(dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(route.request.url).query)).get("cursor", 0))
        row = console.ask("/devices?limit=1")["devices"][0]
        long = "-of-the-pump-in-the-second-basement-of-the-northern-waterworks"
        names = [f"urn:imei:86200000{number:07}{long if number % 10 == 3 else ''}" for number in range(first, first + 100)]
        devices = [row | {"endpoint": name, "waiting": 12345 if name.endswith("5") else 0} for name in names]
        following = str(first + 100) if first + 100 < 10_000 else None
        body = {"devices": devices, "next": following, "examined": 100, "total": 10_000}
        route.fulfill(status=200, content_type="application/json", body=json.dumps(body))

    console.device()
    tab = open_tab(*look)
    tab.log_in()
    tab.page.route(re.compile("/api/v1/devices[?]"), page_of)
    tab.go("#/devices")
    rows = tab.page.locator("tbody tr")
    for shown in range(100, 2_100, 100):
        expect(rows).to_have_count(shown)
        if shown < 2_000:
            tab.page.get_by_role("button", name="Next 100").click()
    expect(tab.page.get_by_text("2,000 devices of 10,000")).to_be_visible()
    assert tab.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"
    # A longer list begins anew at the next page, so that the browser stays quick.
    tab.page.get_by_role("button", name="Next 100").click()
    expect(rows).to_have_count(100)
    finds_nothing(tab.page)


def test_everything_works_by_keyboard(console, tab):
    device = console.device()
    tab.log_in()
    press, page = tab.page.keyboard.press, tab.page
    press("g")
    press("d")
    expect(page.get_by_role("heading", name="Devices")).to_be_visible()
    press("/")
    page.keyboard.type(device.endpoint)
    expect(page.locator("tbody tr")).to_have_count(1)
    press("ArrowDown")
    press("Enter")
    expect(page.get_by_role("heading", name=device.endpoint)).to_be_visible()
    expect(tab.row("/3303/0/5700")).to_be_visible()
    for _ in range(20):
        press("j")
        if page.evaluate("document.activeElement.dataset.key") == "/3303/0/5700":
            break
    if console.has(COMMANDS):
        press("r")
        expect(tab.row("/3303/0/5700")).to_contain_text("2.05")
    page.keyboard.type("?")
    columns = "all => new Set(all.map((one) => one.getBoundingClientRect().x)).size"
    assert page.eval_on_selector_all(".keys dd", columns) == 1, "the texts of the keys are not in one column"
    page.get_by_label("Single-key shortcuts").uncheck()
    press("Escape")
    press("g")
    press("d")
    expect(page.get_by_role("heading", name=device.endpoint)).to_be_visible()


def send_register(gateway, *query):
    """A Register as a datagram; its answer is not looked at."""
    message = bytes([0x40, 2, 0x12, 0x34, 0xB2]) + b"rd"
    for number, item in enumerate(query):
        length, more = (len(item), b"") if len(item) < 13 else (13, bytes([len(item) - 13]))
        message += bytes([(0 if number else 0x40) | length]) + more + item.encode()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.sendto(message, ("127.0.0.1", gateway.coap))


def test_the_pictures_of_the_documentation_are_those_that_the_script_makes(console, browser, tmp_path):
    needs(console, COMMANDS, EVENTS, "/traces", "/failures")
    console_pictures.take(browser, tmp_path, curve=1)
    made = sorted(file.name for file in tmp_path.iterdir())
    assert made == sorted(file.name for file in console_pictures.FOLDER.iterdir())
    shown = re.findall(r"\(pictures/(.*?)\)", (ROOT / "docs/console.md").read_text())
    assert made == sorted(shown)
    assert [file.name for file in console_pictures.FOLDER.iterdir() if file.stat().st_size > 100 * 1024] == []


def test_the_page_stays_within_its_budget(console):
    def served(file):
        with urllib.request.urlopen(f"{console.url}/{file.name}", timeout=30) as answer:
            return answer.read()

    files = {file.name: served(file) for file in PAGE.iterdir()}
    assert sum(map(len, files.values())) <= BUDGET, {name: len(content) for name, content in files.items()}
    assert [name for name, content in files.items() if b"@param" in content or b"@type" in content] == []


def test_the_page_contains_no_way_to_parse_markup():
    sinks = re.compile(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|https?://(?!www\.w3\.org)")
    assert [file.name for file in PAGE.glob("*.js") if sinks.search(file.read_text())] == []
