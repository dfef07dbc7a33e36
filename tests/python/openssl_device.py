"""A device behind `openssl s_client`: CoAP by hand, one message for each record."""

import os
import queue
import socket
import subprocess
import threading

import aiocoap
from aiocoap.numbers.types import Type
from gateway import PATIENCE, Client

TEXT, LINKS = 0, 40
LARGEST_MESSAGE = 2048


class OpensslDevice(Client):
    """Answers every read with one value, as text. Its messages are few and answered one by one, so that what can be
    read from the pipe at once is one of them."""

    def __init__(self, port, folder, *options, value="Acme"):
        line = ("-dtls1_2", "-brief", "-nocommands", "-connect", f"127.0.0.1:{port}")
        super().__init__(["openssl", "s_client", *line, *map(str, options)], folder, stdout=subprocess.PIPE)
        self.value = value
        self.next_id = 1
        self.answers = queue.Queue()
        self.observation = None
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def wait_until_established(self):
        self.wait_for("CONNECTION ESTABLISHED")

    def established(self):
        return "CONNECTION ESTABLISHED" in self.output()

    def suite(self):
        return next(line.split()[-1] for line in self.output().splitlines() if line.startswith("Ciphersuite:"))

    def register(self, endpoint):
        """The answer's code."""
        self._send(register(endpoint), Type.CON, b"\1")
        answer = self.answers.get(timeout=PATIENCE)
        self.location = answer.opt.location_path
        return answer.code

    def update(self):
        request = aiocoap.Message(code=aiocoap.POST)
        request.opt.uri_path = self.location
        self._send(request, Type.CON, b"\2")
        return self.answers.get(timeout=PATIENCE).code

    def notify(self, value):
        """To whoever observed last."""
        message = aiocoap.Message(code=aiocoap.CONTENT, payload=value.encode())
        message.opt.observe, message.opt.content_format = self.next_id, TEXT
        self._send(message, Type.NON, self.observation)

    def _listen(self):
        while datagram := os.read(self.process.stdout.fileno(), LARGEST_MESSAGE):
            message = aiocoap.Message.decode(datagram)
            if message.code == aiocoap.GET:
                self._answer(message)
            elif message.code.is_response():
                self.answers.put(message)

    def _answer(self, request):
        answer = aiocoap.Message(code=aiocoap.CONTENT, payload=self.value.encode())
        if request.opt.observe == 0:
            self.observation = request.token
            answer.opt.observe = 0
        answer.opt.content_format = TEXT
        self._write(answer, Type.ACK, request.mid, request.token)

    def _send(self, message, kind, token):
        self.next_id += 1
        self._write(message, kind, self.next_id, token)

    def _write(self, message, kind, message_id, token):
        message.mtype, message.mid, message.token = kind, message_id, token
        os.write(self.process.stdin.fileno(), message.encode())

    def __exit__(self, *reason):
        super().__exit__(*reason)
        self.thread.join()
        self.process.stdout.close()


def register(endpoint):
    """A Register, without its message id and token."""
    request = aiocoap.Message(code=aiocoap.POST, payload=b"</3/0>,</3303/0>")
    request.opt.uri_path = ("rd",)
    request.opt.uri_query = (f"ep={endpoint}", "lt=300", "lwm2m=1.0", "b=U")
    request.opt.content_format = LINKS
    return request


def registers_over_udp(port, endpoint):
    """The code of the answer to a Register without DTLS."""
    request = register(endpoint)
    request.mtype, request.mid, request.token = Type.CON, 1, b"\1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as line:
        line.settimeout(PATIENCE)
        line.sendto(request.encode(), ("127.0.0.1", port))
        return aiocoap.Message.decode(line.recv(LARGEST_MESSAGE)).code
