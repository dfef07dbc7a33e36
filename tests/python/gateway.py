"""The built program with its embedded broker, on free ports, and an MQTT application that talks to it."""

import contextlib
import json
import os
import pathlib
import queue
import signal
import socket
import subprocess
import tempfile
import time

import paho.mqtt.client as mqtt

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = pathlib.Path(os.environ.get("LWM2M_GATEWAY", ROOT / "target/debug/lwm2m-gateway"))

# Longer than anything takes on a busy machine.
PATIENCE = 30.0


class Gateway:
    """`lwm2m-gateway run --embedded`; over DTLS, too, when there are lines for it."""

    def __init__(self, folder, lines, dtls, definitions, arguments=()):
        self.arguments = arguments
        self.coap, self.coaps = free_ports(2, socket.SOCK_DGRAM)
        self.mqtt, listener, adapter, handler = free_ports(4)
        lines = lines.replace("COAP_URI", self.uri)
        if dtls:
            lines += f"\nlisteners.dtls.default.bind = '127.0.0.1:{self.coaps}'\n{dtls}"
        self.config = pathlib.Path(folder, "gateway.toml")
        self.config.write_text(
            f"""
            xml_dir = "{definitions}"
            listeners.udp.default.bind = "127.0.0.1:{self.coap}"
            upstream.exproto.handler_bind = "127.0.0.1:{handler}"
            embedded.mqtt = "127.0.0.1:{self.mqtt}"
            embedded.listener = "127.0.0.1:{listener}"
            embedded.adapter = "127.0.0.1:{adapter}"
            {lines}
            """
        )
        self.log = pathlib.Path(folder, "gateway.log")
        self.process = None

    @property
    def uri(self):
        return f"coap://127.0.0.1:{self.coap}"

    @property
    def coaps_uri(self):
        return f"coaps://127.0.0.1:{self.coaps}"

    def start(self):
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [PROGRAM, "run", "--embedded", "--config", self.config, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.wait_until_it_hears()

    def kill(self):
        """As a crash would: it has no time for anything."""
        self.process.kill()
        self.process.wait()

    def wait_until_it_hears(self):
        """An empty confirmable message is answered with a reset (RFC 7252 section 4.3)."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.2)
            for attempt in range(int(PATIENCE / 0.2)):
                if self.process.poll() is not None:
                    break
                probe.sendto(bytes([0x40, 0, 0, attempt % 256]), ("127.0.0.1", self.coap))
                with contextlib.suppress(TimeoutError):
                    if probe.recv(64)[0] == 0x70:
                        return
        raise AssertionError(f"the gateway does not answer:\n{self.log.read_text()}")

    def stop(self):
        """SIGTERM ends it, without an error."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        assert code == 0, f"it ended with {code}:\n{self.log.read_text()}"


@contextlib.contextmanager
def running_gateway(lines="", dtls="", definitions=ROOT / "xml", arguments=()):
    """With these lines of configuration (`a.b = value`) besides the addresses, and the object definitions of a folder.

    COAP_URI in the lines stands for the gateway's own URI.

    The arguments come after those that start it."""
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(folder, lines, dtls, definitions, arguments)
        try:
            gateway.start()
            yield gateway
            gateway.stop()
        except BaseException:
            print(f"--- what the gateway said:\n{gateway.log.read_text()}")
            raise
        finally:
            if gateway.process and gateway.process.poll() is None:
                gateway.kill()


def crash(gateway):
    """What is younger than 100 ms is lost then, such as an observation, or where the device is."""
    time.sleep(0.2)
    gateway.kill()


class Application:
    """Hears everything of one device, and sends it commands."""

    def __init__(self, gateway, endpoint):
        self.endpoint = endpoint
        self.heard = queue.Queue()
        self.next_id = 1
        self.client = mqtt.Client()
        subscribed = queue.Queue()
        self.client.on_subscribe = lambda *_: subscribed.put(True)
        self.client.on_message = lambda _client, _data, message: self.heard.put(message)
        self.client.connect("127.0.0.1", gateway.mqtt)
        self.client.loop_start()
        self.client.subscribe(f"lwm2m/{endpoint}/up/#")
        subscribed.get(timeout=PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def receive(self, patience=PATIENCE):
        """The next publication: the topic below the device's own, and the payload."""
        message = self.heard.get(timeout=patience)
        return message.topic.removeprefix(f"lwm2m/{self.endpoint}/"), json.loads(message.payload)

    def expect(self, topic, kind):
        heard, payload = self.receive()
        assert (heard, payload["msgType"]) == (topic, kind), payload
        return payload

    def command(self, kind, answered_as=None, patience=PATIENCE, **data):
        """Sends a command and gives the `data` of its answer. Before it may come an `ack`, and the report of a Register
        or an Update whose device was answered before the application had subscribed."""
        request = self.publish(kind, **data)
        topic, payload = self.receive(patience)
        while payload["msgType"] in ("register", "update", "ack"):
            topic, payload = self.receive(patience)
        assert (topic, payload["msgType"], payload["reqID"]) == ("up/resp", answered_as or kind, request), (
            json.dumps(payload)[:1000]
        )
        return payload["data"]

    def publish(self, kind, **data):
        """Sends a command, and gives its `reqID`."""
        request = self.next_id
        self.next_id += 1
        payload = {"reqID": request, "msgType": kind, "data": data}
        self.client.publish(f"lwm2m/{self.endpoint}/dn", json.dumps(payload))
        return request

    def value(self, kind, path):
        """What a read or an observe of one resource brings."""
        data = self.command(kind, path=path)
        assert data["code"] == "2.05" and [entry["path"] for entry in data["content"]] == [path], data
        return data["content"][0]["value"]


class Client:
    """A device of somebody else: a process that takes lines and prints lines."""

    def __init__(self, command, folder, stdout=None):
        """What it prints goes to a log in the folder, or where it is told."""
        self.log = pathlib.Path(folder, "client.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stdout or log, stderr=log)

    def say(self, line):
        self.process.stdin.write(f"{line}\n".encode())
        self.process.stdin.flush()

    def wait_for(self, text):
        """Until it has printed this."""
        end = time.monotonic() + PATIENCE
        while text not in self.output():
            running = self.process.poll() is None
            assert running and time.monotonic() < end, f"it never said {text!r}:\n{self.output()}"
            time.sleep(0.05)

    def output(self):
        return self.log.read_text(errors="replace")

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is not None:
            print(f"--- what the client said:\n{self.output()}")
        self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def free_ports(count, kind=socket.SOCK_STREAM):
    """All held at once, so that they differ."""
    probes = [socket.socket(socket.AF_INET, kind) for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()
