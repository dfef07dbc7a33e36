"""A UDP line between devices and the gateway that loses datagrams, each way, as its seed says."""

import contextlib
import random
import selectors
import socket
import threading

LARGEST_DATAGRAM = 65_535


class LossyLine:
    """Devices send to `uri`. The gateway sees an address of its own for each of them."""

    def __init__(self, gateway, loss, seed):
        self.gateway = ("127.0.0.1", gateway.coap)
        self.loss = loss
        # One for each way: what is lost of one does not depend on how the two mix.
        self.up, self.down = random.Random(seed), random.Random(~seed)
        self.carried = self.lost = 0
        self.front = bound_socket()
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.front, selectors.EVENT_READ)
        self.backs, self.devices = {}, {}
        self.closed = threading.Event()
        self.thread = threading.Thread(target=self._carry, daemon=True)
        self.thread.start()

    @property
    def uri(self):
        return "coap://{}:{}".format(*self.front.getsockname())

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
                        self._pass(self.up, self._back_of(sender), datagram, self.gateway)
                    else:
                        self._pass(self.down, self.front, datagram, self.devices[key.fileobj])

    def _back_of(self, device):
        if device not in self.backs:
            back = bound_socket()
            self.backs[device], self.devices[back] = back, device
            self.selector.register(back, selectors.EVENT_READ)
        return self.backs[device]

    def _pass(self, chance, through, datagram, to):
        if chance.random() < self.loss:
            self.lost += 1
        else:
            self.carried += 1
            through.sendto(datagram, to)


def bound_socket():
    line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    line.bind(("127.0.0.1", 0))
    return line
