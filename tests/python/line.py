"""A UDP line between devices and the gateway: it loses datagrams, gives devices new addresses, and counts handshakes."""

import contextlib
import random
import selectors
import socket
import threading
import urllib.parse

LARGEST_DATAGRAM = 65_535

# Record layer of DTLS 1.2 (RFC 6347 section 4.1): type, version, epoch, sequence number, length.
RECORD_HEADER = 13
HANDSHAKE = 22
# Behind the header of any other type, such as tls12_cid, the length is somewhere else.
RECORD_TYPES = range(20, 24)
# RFC 5246 section 7.4.
CLIENT_HELLO, CLIENT_KEY_EXCHANGE = 1, 16


class Line:
    """Devices send to `uri`. The gateway sees an address of its own for each of them."""

    def __init__(self, gateway_uri, loss=0.0, seed=0):
        """What is lost, each way, is as the seed says."""
        gateway = urllib.parse.urlsplit(gateway_uri)
        self.scheme = gateway.scheme
        self.gateway = (gateway.hostname, gateway.port)
        self.loss = loss
        # One for each way: what is lost of one does not depend on how the two mix.
        self.up, self.down = random.Random(seed), random.Random(~seed)
        self.carried = self.lost = 0
        self.handshake_messages = []
        self.front = bound_socket()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.front, selectors.EVENT_READ)
        self.backs, self.devices = {}, {}
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()

    @property
    def port(self):
        return self.front.getsockname()[1]

    @property
    def uri(self):
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def move(self):
        """As a NAT that forgot: what devices send next comes from new addresses, and what goes to the old ones is lost."""
        self.backs.clear()

    def seen(self, handshake_message):
        """How many handshake messages of this type devices sent."""
        return self.handshake_messages.count(handshake_message)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.closed.set()
        self.thread.join()
        for line in (self.front, *self.devices):
            line.close()
        self.selector.close()

    def _carry(self):
        while not self.closed.is_set():
            for key, _events in self.selector.select(timeout=0.1):
                # A port that nobody listens on any more is told as an error of the socket.
                with contextlib.suppress(ConnectionError):
                    datagram, sender = key.fileobj.recvfrom(LARGEST_DATAGRAM)
                    if key.fileobj is self.front:
                        self.handshake_messages += handshake_messages(datagram)
                        self._pass(self.up, self._back_of(sender), datagram, self.gateway)
                    else:
                        self._answer(key.fileobj, datagram)

    def _back_of(self, device):
        if device not in self.backs:
            back = bound_socket()
            self.backs[device], self.devices[back] = back, device
            self.selector.register(back, selectors.EVENT_READ)
        return self.backs[device]

    def _answer(self, back, datagram):
        device = self.devices[back]
        if self.backs.get(device) is back:
            self._pass(self.down, self.front, datagram, device)
        else:
            self.lost += 1

    def _pass(self, chance, through, datagram, to):
        if chance.random() < self.loss:
            self.lost += 1
        else:
            self.carried += 1
            through.sendto(datagram, to)


def handshake_messages(datagram):
    """The types of those that are in the clear."""
    at = 0
    while at + RECORD_HEADER < len(datagram) and datagram[at] in RECORD_TYPES:
        in_the_clear = datagram[at + 3 : at + 5] == b"\0\0"
        if datagram[at] == HANDSHAKE and in_the_clear:
            yield datagram[at + RECORD_HEADER]
        at += RECORD_HEADER + int.from_bytes(datagram[at + 11 : at + RECORD_HEADER], "big")


def bound_socket():
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.bind(("127.0.0.1", 0))
    return line
