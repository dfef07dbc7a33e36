"""The image: built from the last stage of deploy/docker/Dockerfile by buildah, without a daemon and without a base image,
and run as it will be run: as its user, with a root that cannot be written. IMAGE_PROGRAM is the static program."""

import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
USER = 65532
STATE = "/var/lib/lwm2m-gateway"
# Longer than anything takes on a busy machine.
PATIENCE = 60.0


class Buildah:
    """The image, and one container of it."""

    def __init__(self, folder):
        self.command = ["buildah", "--storage-driver", "vfs", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
        layout = folder / "layout"
        subprocess.run([ROOT / "deploy/docker/build-rootfs", os.environ["IMAGE_PROGRAM"], layout], check=True)
        recipe = folder / "Containerfile"
        recipe.write_text(last_stage())
        self("build", "--isolation", "chroot", "--layers=false", "--file", recipe, "--tag", "lwm2m-gateway", layout)
        self.container = self("from", "lwm2m-gateway").strip()
        self.root = pathlib.Path(self("mount", self.container).strip())

    def __call__(self, *arguments):
        done = subprocess.run([*self.command, *arguments], check=True, stdout=subprocess.PIPE, text=True)
        return done.stdout

    def configuration(self):
        return json.loads(self("inspect", "--type", "image", "lwm2m-gateway"))["OCIv1"]["config"]

    def remove(self):
        self("umount", self.container)
        self("rm", self.container)


def last_stage():
    """What the first stage leaves for it is in the folder of the build."""
    stage = (ROOT / "deploy/docker/Dockerfile").read_text().split("\nFROM scratch\n")[1]
    assert stage.count("COPY --from=build ") == 2
    return "FROM scratch\n" + stage.replace("--from=build ", "").replace(" /rootfs/", " /")


@pytest.fixture(scope="session")
def image(tmp_path_factory):
    buildah = Buildah(tmp_path_factory.mktemp("image"))
    yield buildah
    buildah.remove()


class Container:
    """The image at work: a root of its own that cannot be written, its user, no capability, and a folder for the state."""

    START = """
        mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" && mount --bind "$2" "$1$3" && mount --bind "$4" "$1/etc/hosts"
        root=$1 && shift 4
        exec setpriv --no-new-privs chroot --userspec=65532:65532 "$root" "$@"
    """

    def __init__(self, image, folder, variables):
        self.root, self.state, self.hosts = folder / "root", folder / "state", folder / "hosts"
        shutil.copytree(image.root, self.root)
        # A runtime makes both.
        (self.root / "etc/hosts").touch()
        self.hosts.write_text("127.0.0.1 localhost emqx.test\n")
        self.state.mkdir()
        os.chown(self.state, USER, USER)
        self.coap, self.admin = free_port(socket.SOCK_DGRAM), free_port(socket.SOCK_STREAM)
        self.variables = variables | {
            "LISTENERS__UDP__DEFAULT__BIND": f"127.0.0.1:{self.coap}",
            "ADMIN__BIND": f"127.0.0.1:{self.admin}",
            "UPSTREAM__EXPROTO__HANDLER_BIND": f"127.0.0.1:{free_port(socket.SOCK_STREAM)}",
        }
        self.log = folder / "log"
        self.configuration = image.configuration()
        self.process = None

    def start(self, *command):
        arguments = self.configuration["Entrypoint"] + (list(command) or self.configuration["Cmd"])
        environment = {f"LWM2M_GATEWAY__{name}": value for name, value in self.variables.items()}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "sh", "-ec", self.START, "sh", self.root, self.state, STATE, self.hosts, *arguments],
                env=environment | {"PATH": os.environ["PATH"]},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.until(lambda: self.page("/healthz") == 200, "it is healthy")

    def until(self, happened, what):
        end = time.monotonic() + PATIENCE
        while not happened():
            assert self.process.poll() is None and time.monotonic() < end, f"{what}: no\n{self.log.read_text()}"
            time.sleep(0.1)

    def page(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}", timeout=5) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return None

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def start(image, tmp_path):
    started = []

    def container(*command, **variables):
        started.append(Container(image, tmp_path, variables))
        started[-1].start(*command)
        return started[-1]

    yield container
    for one in started:
        one.kill()


def free_port(kind):
    with socket.socket(socket.AF_INET, kind) as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_it_says_how_it_is_run(image):
    configuration = image.configuration()
    assert configuration["User"] == f"{USER}:{USER}"
    assert configuration["Entrypoint"] == ["/usr/bin/lwm2m-gateway"]
    assert configuration["Cmd"] == ["run", "--config", "/etc/lwm2m-gateway/gateway.toml"]
    assert configuration["WorkingDir"] == STATE
    assert list(configuration["Volumes"]) == [STATE]
    assert sorted(configuration["ExposedPorts"]) == ["5683/udp", "5684/udp", "8085/tcp", "9001/tcp"]


def test_it_holds_the_program_and_what_that_reads_and_no_shell(image):
    files = {str(path.relative_to(image.root)) for path in image.root.rglob("*") if path.is_file()}
    definitions = {f"usr/share/lwm2m-gateway/xml/{path.name}" for path in (ROOT / "xml").glob("*.xml")}
    # buildah leaves the last one where it has mounted a container.
    assert files - definitions - {"run/.containerenv"} == {
        "etc/group",
        "etc/lwm2m-gateway/gateway.toml",
        "etc/passwd",
        "etc/ssl/certs/ca-certificates.crt",
        "usr/bin/lwm2m-gateway",
    }
    assert definitions <= files


def test_its_user_can_change_nothing_but_the_state(image):
    def writable(path):
        status = path.lstat()
        return status.st_uid == USER or status.st_gid == USER or status.st_mode & 0o002

    changeable = [f"/{path.relative_to(image.root)}" for path in image.root.rglob("*") if writable(path)]
    assert changeable == [STATE]


def test_its_program_needs_no_library(image):
    headers = subprocess.run(
        ["readelf", "--wide", "--program-headers", "--dynamic", image.root / "usr/bin/lwm2m-gateway"],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    assert "INTERP" not in headers and "NEEDED" not in headers


def test_buildah_runs_it(image):
    command = ["run", "--isolation", "chroot", image.container, "--", "/usr/bin/lwm2m-gateway", "check", "--config"]
    said = image(*command, "/etc/lwm2m-gateway/gateway.toml")
    assert said.startswith("configuration: no mistakes\n")


def test_it_serves_devices_and_finds_emqx_by_its_name(start):
    with socket.create_server(("127.0.0.1", 0)) as emqx:
        emqx.settimeout(PATIENCE)
        port = emqx.getsockname()[1]
        container = start(UPSTREAM__EXPROTO__LISTENER=f"emqx.test:{port}", UPSTREAM__EXPROTO__ADAPTER=f"http://emqx.test:{port}")
        emqx.accept()[0].close()
        assert container.page("/metrics") == 200
        # Nobody answers there as EMQX would.
        assert container.page("/readyz") == 503
        # RFC 7252 section 4.3: an empty confirmable message is answered with a reset.
        assert exchange(container.coap, bytes([0x40, 0, 1, 2])) == bytes([0x70, 0, 1, 2])

    status = pathlib.Path(f"/proc/{container.process.pid}/status").read_text()
    assert re.search(r"^Uid:\s+65532\s+65532\s+65532\s+65532$", status, re.MULTILINE)
    assert re.search(r"^Gid:\s+65532\s+65532\s+65532\s+65532$", status, re.MULTILINE)
    for capabilities in ["CapPrm", "CapEff", "CapAmb"]:
        assert re.search(rf"^{capabilities}:\s+0+$", status, re.MULTILINE)
    assert container.stop() == 0
    assert [path.name for path in container.state.iterdir()] == ["lwm2m-gateway.redb"]


def test_a_registration_outlives_the_container(start):
    ports = {name: f"127.0.0.1:{free_port(socket.SOCK_STREAM)}" for name in ("MQTT", "LISTENER", "ADAPTER")}
    variables = {f"EMBEDDED__{name}": address for name, address in ports.items()} | {"STORE__ENABLE": "true"}
    variables["ADMIN__ENABLE"] = "true"
    command = ["run", "--embedded", "--config", "/etc/lwm2m-gateway/gateway.toml"]
    container = start(*command, **variables)
    register = message(0x02, 1, [(11, b"rd"), (12, b"\x28"), (15, b"ep=image"), (15, b"lt=300")], b"</1/0>,</3/0>")
    answers = []
    container.until(lambda: answers.append(exchange(container.coap, register)) or answers[-1][1:2] == b"\x41", "2.01")
    location = [(11, value) for number, value in options(answers[-1]) if number == 8]
    assert len(location) == 2

    assert container.stop() == 0
    container.start(*command)
    # 2.04
    assert exchange(container.coap, message(0x02, 2, location, b""))[1] == 0x44
    assert container.stop() == 0


def exchange(port, request):
    """The first answer, empty if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        device.settimeout(5)
        device.connect(("127.0.0.1", port))
        device.send(request)
        try:
            return device.recv(2048)
        except TimeoutError:
            return b""


def message(code, number, fields, payload):
    """A confirmable request (RFC 7252 section 3) with a token of two bytes; its options are short."""
    encoded, last = bytes([0x42, code, 0x70, number, 0xAA, number]), 0
    for option, value in fields:
        assert option - last < 13 and len(value) < 269
        length = min(len(value), 13)
        encoded += bytes([(option - last) << 4 | length]) + (bytes([len(value) - 13]) if length == 13 else b"") + value
        last = option
    return encoded + (b"\xff" + payload if payload else b"")


def options(encoded):
    """Those of a message whose options are short, up to the payload."""
    rest, number = encoded[4 + (encoded[0] & 15) :], 0
    while rest and rest[0] != 0xFF:
        number += rest[0] >> 4
        length, begin = rest[0] & 15, 1
        if length == 13:
            length, begin = rest[1] + 13, 2
        yield number, rest[begin : begin + length]
        rest = rest[begin + length :]
