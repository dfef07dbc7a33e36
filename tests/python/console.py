"""A gateway with a console, devices that a test commands, and a browser: Debian's Chromium by playwright."""

import hashlib
import itertools
import json
import pathlib
import re
import secrets
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

import device as lwm2m
from gateway import free_ports

CHROMIUM = pathlib.Path("/usr/bin/chromium")
ROLES = {"operator": "operator", "viewer": "viewer", "guest": "operator"}
WIDTHS = {"desktop": {"width": 1280, "height": 860}, "phone": {"width": 360, "height": 780}}
PATIENCE_MS = 15_000

THERMOMETER = {
    (1, 0, 0): 1,
    (1, 0, 1): 300,
    (3, 0, 0): "ACME",
    (3, 0, 4): "",
    (3, 0, 5): "",
    (3, 0, 14): "+02:00",
    (3303, 0, 5700): 21.5,
    (3303, 0, 5701): "Cel",
}


class Tokens:
    """The tokens file of a console: one token for each of ROLES."""

    def __init__(self, folder):
        self.file = pathlib.Path(folder, "tokens")
        self.of = {name: f"lgw_{secrets.token_urlsafe(32)}" for name in ROLES}
        self.write(ROLES)

    def write(self, names):
        """Replaces the file as a whole: a file that is being written is not read."""
        lines = [f"{name} {ROLES[name]} {hashlib.sha256(self.of[name].encode()).hexdigest()}\n" for name in names]
        new = self.file.with_suffix(".new")
        new.write_text("".join(lines))
        new.chmod(0o600)
        new.rename(self.file)


class Console:
    """The console of a gateway, and the devices of a test."""

    numbers = itertools.count(1)

    def __init__(self, gateway, port, tokens):
        self.gateway, self.tokens = gateway, tokens
        self.url = f"http://127.0.0.1:{port}"
        self.operator, self.viewer = tokens.of["operator"], tokens.of["viewer"]
        self.devices = []

    def ask(self, path, method="GET", body=None):
        """Asks the API as an operator."""
        headers = {"Authorization": f"Bearer {self.operator}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}/api/v1{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            content = answer.read()
        return json.loads(content) if content else None

    def grant(self, names):
        """Lets these tokens be valid, and waits until they are and no others."""
        self.tokens.write(names)
        end = time.monotonic() + PATIENCE_MS / 1000
        while [name for name in ROLES if self.accepts(self.tokens.of[name])] != list(names):
            assert time.monotonic() < end, "the tokens file is not read again"
            time.sleep(0.1)

    def accepts(self, token):
        """Whether a token is valid."""
        request = urllib.request.Request(f"{self.url}/api/v1/session", headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(request, timeout=30):
                return True
        except urllib.error.HTTPError as error:
            assert error.code == 401, error
            return False

    def has(self, path):
        """Whether the API of this gateway has a resource."""
        return f"/api/v1{path}" in self.ask("/openapi.json")["paths"]

    def device(self, kind="thermometer", values=THERMOMETER, binding="U"):
        """Registers a device with a name that no other has."""
        device = lwm2m.Device(self.gateway.uri, f"{kind}-{next(self.numbers)}", values, binding=binding)
        device.register()
        self.devices.append(device)
        return device

    def leave(self):
        """The devices of a test are gone."""
        for device in self.devices:
            device.close()
        self.devices.clear()


def settings(folder):
    """The lines of a configuration with a console, its port and its tokens."""
    (port,) = free_ports(1)
    tokens = Tokens(folder)
    lines = f'console.bind = "127.0.0.1:{port}"\nconsole.tokens = "{tokens.file}"\nqmode_time_window = "2s"'
    return lines, port, tokens


class Ticking:
    """A device whose temperature changes, so that it notifies while somebody observes it."""

    def __init__(self, device, every=0.4):
        self.device, self.every = device, every
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)

    def run(self):
        for step in itertools.count(1):
            if self.over.wait(self.every):
                return
            self.device.notify((3303, 0, 5700), 21.5 + step / 4)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Tab:
    """A tab of the browser. `faults` has requests to other origins, reports of the CSP and uncaught errors."""

    def __init__(self, browser, console, viewport=WIDTHS["desktop"], scheme="light", **settings):
        self.console = console
        self.context = browser.new_context(
            viewport=viewport, color_scheme=scheme, reduced_motion="reduce", **settings
        )
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE_MS)
        self.faults = []
        report = "addEventListener('securitypolicyviolation', (event) => console.error('CSP: ' + event.violatedDirective))"
        self.page.add_init_script(report)
        self.page.on("pageerror", lambda error: self.faults.append(str(error)))
        self.page.on("console", lambda line: self.note(line.text))
        self.page.route("**/*", self.only_here)

    def note(self, text):
        if re.search("CSP|Content Security", text):
            self.faults.append(text)

    def only_here(self, route):
        if route.request.url.startswith((f"{self.console.url}/", "blob:", "data:")):
            return route.continue_()
        self.faults.append(f"request to {route.request.url}")
        return route.abort()

    def log_in(self, token=None):
        """Follows the link that the gateway prints."""
        self.page.goto(f"{self.console.url}/#token={token or self.console.operator}")
        self.page.get_by_role("heading", name="Overview").wait_for()

    def go(self, where):
        self.page.evaluate("where => { location.hash = where }", where)

    def open(self, endpoint, token=None):
        """Shows a device."""
        self.log_in(token)
        self.go(f"#/device/{urllib.parse.quote(endpoint, safe='')}")
        self.page.get_by_role("heading", name=endpoint, exact=True).wait_for()

    def row(self, path):
        return self.page.locator(f"tr[data-key='{path}']")

    def act(self, path, key):
        """Presses the key of an action on a resource."""
        self.row(path).focus()
        self.page.keyboard.press(key)

    def close(self):
        self.context.close()
