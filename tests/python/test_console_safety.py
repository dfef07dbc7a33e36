"""Secrets that are planted are in no answer, event, trace or log; names, values and reasons are data, whatever they hold."""

import base64
import contextlib
import http.client
import json
import pathlib
import tempfile
import threading
import urllib.error
import urllib.parse

import pytest
from console import Console, settings
from device import Device
from gateway import PATIENCE, Application, running_gateway

PSK = "planted-key-0123"
PASSWORD = "planted-password-of-a-device"
HIDDEN = "planted-key-of-an-object"
MARKUP = "<script>planted()<&'\"`"
VALUES = {(1, 0, 1): 300, (3, 0, 0): MARKUP, (0, 0, 5): HIDDEN, (3303, 0, 5700): 21.5}


@pytest.fixture(scope="module")
def site():
    """A console that shows as much as it can, a device with a password, one with a pre-shared key, and their traces."""
    with tempfile.TemporaryDirectory() as folder:
        keys = pathlib.Path(folder, "keys.psk")
        keys.write_text(f"secured:{PSK}\nother:{PSK}-2\n")
        lines, port, tokens = settings(folder)
        lines += '\nlog.level = "debug"\nclientinfo.password = "${password}"'
        with running_gateway(lines, f'dtls.psk_file = "{keys}"') as gateway, contextlib.ExitStack() as stack:
            console = Console(gateway, port, tokens)
            plain = Device(gateway.uri, "plain", VALUES, items=(f"password={PASSWORD}", f"imei={MARKUP}"))
            secured = Device(gateway.coaps_uri, "secured", VALUES, secret=PSK)
            for device in (plain, secured):
                stack.callback(device.close)
            site = Site(console, [plain, secured])
            site.live()
            yield site


class Site:
    def __init__(self, console, devices):
        self.console, self.devices = console, devices
        self.locations, self.heard = [], []
        self.ids = {"command": [], "trace": []}

    def live(self):
        """Everything that shows something of a device happens: commands, notifications, failures, another Register."""
        if self.console.has("/traces"):
            for subject in ({"endpoint": "plain"}, {"endpoint": "secured"}, {"address": "127.0.0.1"}):
                self.ids["trace"].append(self.console.ask("/traces", "POST", subject)["id"])
        streams = [Stream(self.console, path) for path in self.streams()]
        for device in self.devices:
            with Application(self.console.gateway, device.endpoint) as application:
                device.register()
                self.locations += [device.location[-1]]
                application.expect("up/resp", "register")
                assert application.value("read", "/3/0/0") == MARKUP
                application.command("read", path="/0/0/5")
                application.command("write", path="/3303/0/5700", type="Float", value=MARKUP)
                application.command("observe", path="/3303/0/5700")
                device.notify((3303, 0, 5700), 22.5)
            if self.console.has("/devices/{endpoint}/commands"):
                for path in ("/3/0/0", "/0/0/5"):
                    command = {"msgType": "read", "data": {"path": path}, "note": MARKUP}
                    answer = self.console.ask(f"/devices/{device.endpoint}/commands?wait=10", "POST", command)
                    self.ids["command"].append(answer["id"])
            device.update()
            device.register()
            self.locations += [device.location[-1]]
        refused = Device(self.console.gateway.uri, f"{MARKUP}+#", VALUES, items=(f"password={PASSWORD}",))
        with contextlib.closing(refused), pytest.raises(AssertionError):
            refused.register()
        self.heard = [stream.end() for stream in streams]

    def streams(self):
        paths = ["/events"] if self.console.has("/events") else []
        if self.console.has("/devices/{endpoint}/events"):
            paths += [f"/devices/{device.endpoint}/events" for device in self.devices]
        return paths

    def answers(self):
        """All answers of the API: each GET of its document with each name and id that there is, in each role."""
        for path, item in self.console.ask("/openapi.json")["paths"].items():
            if "get" not in item or path.endswith("/events"):
                continue
            for filled in self.filled(path):
                for role in ("viewer", "operator", "nobody"):
                    yield filled, *self.get(filled, role)
        for device in self.devices:
            if self.console.has("/devices/{endpoint}/events"):
                path = f"/api/v1/devices/{device.endpoint}/events?since=0&max=1s"
                yield path, *self.get(path, "operator")
        for content in self.heard:
            yield "stream", 200, {}, content

    def filled(self, path):
        if "lookup" in path:
            path += "?path=/3/0/0&action=read"
        if "{id}" in path:
            kind = next((kind for kind in self.ids if f"{kind}s/" in path), None)
            return [path.replace("{id}", str(name)) for name in (self.ids[kind] if kind else [3])]
        name = path[path.find("{") : path.find("}") + 1]
        return [path.replace(name, device.endpoint) for device in self.devices] if name else [path]

    def get(self, path, role):
        headers = {"Authorization": f"Bearer {self.console.tokens.of[role]}"} if role != "nobody" else {}
        return send(self.console, "GET", path, headers)


class Stream:
    """Reads a stream of events until it is told to end."""

    def __init__(self, console, path):
        self.connection = http.client.HTTPConnection(console.url.removeprefix("http://"), timeout=PATIENCE)
        self.connection.request("GET", f"/api/v1{path}", headers={"Authorization": f"Bearer {console.operator}"})
        self.answer = self.connection.getresponse()
        self.content = []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError):
            while not self.over.is_set() and (content := self.answer.read1(65536)):
                self.content.append(content)

    def end(self):
        self.over.set()
        # A comment comes each 15 s at the latest.
        self.thread.join(PATIENCE)
        self.connection.close()
        return b"".join(self.content)


def send(console, method, path, headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection(console.url.removeprefix("http://"), timeout=PATIENCE)
    try:
        connection.putrequest(method, path, skip_host="Host" in headers)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def forms(secret):
    """The forms in which a secret could be shown: text, hexadecimal digits, Base64."""
    raw = secret.encode()
    yield raw
    yield raw.hex().encode()
    yield raw.hex().upper().encode()
    # Of Base64 the part that does not depend on what is before and after it.
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + raw)
        yield encoded[4 if before else 0 : -4]


def test_planted_secrets_are_in_no_answer_event_trace_or_log(site):
    of_console = list(site.console.tokens.of.values())
    secrets = {PSK, PASSWORD, HIDDEN, *site.locations, *of_console}
    texts = [(path, body + str(headers).encode()) for path, _, headers, body in site.answers()]
    assert len(texts) > 25, "the document has fewer resources than it had"
    texts.append(("the log", site.console.gateway.log.read_bytes()))
    found = {
        (secret, path)
        for secret in secrets
        for path, text in texts
        if any(form in text for form in forms(secret))
    }
    assert not found
    # Secrets of that kind would have been found: names are.
    assert any(b"secured" in text for path, text in texts if path.endswith("/devices/secured"))


def test_markup_in_names_values_and_reasons_is_json_that_no_browser_shows(site):
    media_types = set()
    for path, status, headers, body in site.answers():
        if path == "stream":
            continue
        media_types.add(headers.get_content_type())
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert "default-src 'none'" in headers["Content-Security-Policy"], path
        if headers.get_content_type().endswith("json"):
            json.loads(body)
    assert media_types <= {"application/json", "application/problem+json", "application/vnd.tcpdump.pcap"}
    shown = site.console.ask("/devices/plain")
    assert shown["items"] == {"imei": MARKUP}
    with pytest.raises(urllib.error.HTTPError) as missing:
        site.console.ask(f"/devices/{urllib.parse.quote(MARKUP, safe='')}")
    problem = json.loads(missing.value.read())
    assert problem["detail"].startswith('"<script>planted()<&'), problem


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example"}, 421),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site", "Content-Type": "application/x-www-form-urlencoded"}, 403),
    ],
)
def test_requests_of_other_sites_reach_no_resource(site, headers, status):
    """With the token of an operator, which a browser would not send by itself."""
    authorized = {"Authorization": f"Bearer {site.console.operator}", **headers}
    for path, item in site.console.ask("/openapi.json")["paths"].items():
        for method in item:
            filled = path.replace("{endpoint}", "plain").replace("{clientid}", "plain").replace("{id}", "3")
            answer, sent, _ = send(site.console, method.upper(), filled.replace("{number}", "1"), authorized)
            assert answer == status, (method, filled)
            assert not any(name.lower().startswith("access-control") for name in sent), sent
    assert site.console.ask("/devices/plain")["endpoint"] == "plain"


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
def test_forms_are_no_commands(site, media_type):
    """The paths of EMQX have no bodies: there a token alone decides."""
    headers = {"Authorization": f"Bearer {site.console.operator}", "Content-Type": media_type}
    for path, item in site.console.ask("/openapi.json")["paths"].items():
        if "post" in item and path.startswith("/api/v1/"):
            status, _, body = send(site.console, "POST", path.replace("{endpoint}", "plain"), headers)
            assert (status, json.loads(body)["type"].rsplit(":", 1)[1]) == (415, "not-json"), path
