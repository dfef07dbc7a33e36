"""Makes the pictures of the documentation with simulated devices: console_pictures.py [FOLDER], or docs/pictures."""

import base64
import pathlib
import sys
import tempfile

from playwright.sync_api import sync_playwright

from console import CHROMIUM, Console, Tab, settings
from gateway import ROOT, running_gateway

FOLDER = ROOT / "docs/pictures"
DEVICES = 40
# Seconds until curves look like some. Notifications of a thermometer are 2 s apart, the overview is fetched each 5 s.
CURVE = 20
SCALE = 1.5
QUALITY = 75


def device(tab, curve):
    tab.go("#/device/thermometer-3")
    tab.row("/3303/0/5700").wait_for()
    tab.page.locator("tr[data-key='/3303/0'] [data-action=read]").click()
    tab.row("/3303/0/5700").locator(".text").wait_for()
    tab.act("/3303/0/5700", "o")
    tab.page.get_by_role("button", name="Chart of Sensor Value").wait_for()
    tab.page.wait_for_timeout(curve * 1000)


def activity(tab, _):
    tab.page.get_by_role("tab", name="Activity").click()
    tab.page.locator(".k-notify").nth(3).wait_for()


def trace(tab, _):
    tab.page.get_by_role("tab", name="Trace").click()
    tab.page.get_by_role("button", name="Start a trace").click()
    tab.page.get_by_role("dialog").get_by_role("button", name="Start").click()
    tab.console.ask("/devices/thermometer-3/commands?wait=10", "POST", {"msgType": "read", "data": {"path": "/3303/0"}})
    answer = tab.page.locator(".trace li.in").filter(has_text="2.05").locator("summary").first
    answer.wait_for()
    answer.click()


def write(tab, _):
    """The dialog of a write: an input for the type of the resource, and what the value may be."""
    tab.page.get_by_role("tab", name="Objects").click()
    tab.page.get_by_role("button", name="Expand all").click()
    tab.act("/1/0/1", "r")
    tab.row("/1/0/1").locator(".text").wait_for()
    tab.act("/1/0/1", "w")
    tab.page.get_by_role("dialog").wait_for()


def queue(tab, _):
    """The dialog before a command for a device that sleeps."""
    tab.go("#/device/meter-2")
    tab.row("/3305/0/5800").wait_for()
    tab.page.locator(".bar .s-asleep").wait_for(timeout=60_000)
    tab.act("/3305/0/5800", "r")
    tab.page.get_by_role("dialog").wait_for()


def overview(tab, curve):
    tab.go("#/overview")
    tab.page.wait_for_timeout(curve * 1000)


def failures(tab, _):
    tab.go("#/failures")
    tab.page.locator("tbody tr").first.wait_for(timeout=60_000)


def devices(tab, _):
    tab.go("#/devices")
    tab.page.get_by_role("link", name="thermometer-3", exact=True).wait_for()


SIZE = {"width": 1200, "height": 720}
# Tabs with their colours, and the pictures that are made in them, one after another.
TABS = [
    ("light", [device, activity, trace, write, queue, overview, failures]),
    ("dark", [devices]),
]


def take(browser, folder, curve=CURVE):
    """Writes all pictures into the folder."""
    with tempfile.TemporaryDirectory() as place:
        lines, port, tokens = settings(place)
        with running_gateway(lines, arguments=("--simulate", str(DEVICES))) as gateway:
            console = Console(gateway, port, tokens)
            for scheme, leads in TABS:
                tab = Tab(browser, console, SIZE, scheme, device_scale_factor=SCALE)
                tab.log_in()
                for lead in leads:
                    lead(tab, curve)
                    picture(tab, pathlib.Path(folder, f"console-{lead.__name__}.webp"))
                tab.close()


def picture(tab, file):
    """Without a focus ring, and with the mouse where nothing is."""
    tab.page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0) }")
    tab.page.mouse.move(0, 0)
    session = tab.context.new_cdp_session(tab.page)
    shot = session.send("Page.captureScreenshot", {"format": "webp", "quality": QUALITY})
    file.write_bytes(base64.b64decode(shot["data"]))


if __name__ == "__main__":
    with sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=str(CHROMIUM), args=["--no-sandbox"])
        take(chromium, sys.argv[1] if len(sys.argv) > 1 else FOLDER)
