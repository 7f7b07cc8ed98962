"""The systems that are compared: what each can do, how it is started, when it is ready.

All get the same: two worker threads, a history of 10,000 events per channel, a heartbeat every 15 s, loopback.
"""

import base64
import hashlib
import hmac
import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import processes

HERE = Path(__file__).resolve().parent.parent
THREADS = 2
NGINX_MODULES = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/share/nginx/modules"]


class NotReady(Exception):
    """A system that did not come up."""


class System:
    key = ""
    name = ""
    template = ""          # of the load generator
    port = 0
    peer = True            # a product to be compared with, that is: neither Fanfare nor the floor
    history = True         # can replay what was published before
    streams = False        # takes many events in one request while they arrive
    ramp = 0               # so many connections a second at most, where it cannot take a crowd
    about = ""             # one line for the document

    def __init__(self, places):
        self.places = places
        self.run = places.runs / self.key
        self.process = None
        self.log = None

    # What a system has to say for itself.

    def version(self):
        """The version as text, or None when the system is not installed."""
        raise NotImplementedError

    def prepare(self):
        """Lays out configuration in self.run; returns the command and its environment."""
        raise NotImplementedError

    def ready_url(self):
        return f"{self.url()}/"

    def generator(self):
        """Options of the load generator beside address and template."""
        return []

    # What is the same for all.

    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def start(self):
        shutil.rmtree(self.run, ignore_errors=True)
        self.run.mkdir(parents=True)
        command, environment = self.prepare()
        self.log = open(self.run / "output.log", "wb")
        self.process = subprocess.Popen(
            self.places.pinned(command), cwd=self.run, env={**os.environ, **environment},
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT, start_new_session=True)
        self.await_ready()

    def await_ready(self, patience=15.0):
        limit = time.monotonic() + patience
        while time.monotonic() < limit:
            if self.process.poll() is not None:
                raise NotReady(f"{self.name} ended with {self.process.returncode}: {self.last_words()}")
            if self.answers():
                time.sleep(0.2)
                return
            time.sleep(0.05)
        raise NotReady(f"{self.name} does not answer: {self.last_words()}")

    def answers(self):
        try:
            urllib.request.urlopen(self.ready_url(), timeout=2).close()
        except urllib.error.HTTPError as error:
            return error.code < 500
        except (OSError, ValueError):
            return False
        return True

    def last_words(self):
        try:
            return (self.run / "output.log").read_text(errors="replace")[-400:].strip() or "(no output)"
        except OSError:
            return "(no output)"

    def stop(self):
        if self.process:
            processes.end(self.process)
            self.process = None
        if self.log:
            self.log.close()
            self.log = None
        shutil.rmtree(self.run / "data", ignore_errors=True)

    def fill(self, template, target, **more):
        text = (HERE / "peers" / template).read_text()
        values = {"RUN": self.run, "PORT": self.port, "THREADS": THREADS, **more}
        for name, value in values.items():
            text = text.replace(f"@{name}@", str(value))
        path = self.run / target
        path.write_text(text)
        return path


class Fanfare(System):
    key, name, template, port = "fanfare", "Fanfare", "fanfare", 24100
    peer, streams = False, True
    about = "`fanfare serve`, release build"

    def version(self):
        return output([self.places.fanfare, "--version"])

    def prepare(self):
        config = self.fill("fanfare.toml", "fanfare.toml")
        command = [self.places.fanfare, "serve", "--config", config, "--listen", f"127.0.0.1:{self.port}",
                   "--admin-listen", f"127.0.0.1:{self.port + 1}"]
        return command, {"TOKIO_WORKER_THREADS": str(THREADS)}

    def ready_url(self):
        return f"{self.url()}/readyz"


class Floor(System):
    key, name, template, port = "floor", "floor", "floor", 24110
    peer, history = False, False
    about = ("not a hub: `benches/compare/floor`, one `write` per delivery and nothing else; "
             "no history, no heartbeat, no backlog")

    def version(self):
        return "-" if self.places.floor.exists() else None

    def prepare(self):
        return [self.places.floor, f"127.0.0.1:{self.port}", str(THREADS)], {}

    def answers(self):
        try:
            request = urllib.request.Request(f"{self.url()}/ready", data=b"?", method="POST")
            urllib.request.urlopen(request, timeout=2).close()
        except OSError:
            return False
        return True


class Nchan(System):
    key, name, template, port = "nchan", "Nchan", "nchan", 24120
    about = "nginx with the Nchan module, 2 workers, 1 GiB of shared memory"

    def version(self):
        if not shutil.which("nginx") or not self.modules():
            return None
        nginx = output(["nginx", "-v"]).split("/")[-1]
        return " on nginx ".join(filter(None, [debian("libnginx-mod-nchan"), nginx]))

    def modules(self):
        return next((place for place in NGINX_MODULES if Path(place, "ngx_nchan_module.so").exists()), None)

    def prepare(self):
        config = self.fill("nchan.conf", "nginx.conf", MODULES=self.modules(), USER=nginx_user())
        return ["nginx", "-e", self.run / "error.log", "-c", config], {}

    def ready_url(self):
        return f"{self.url()}/status"

    def generator(self):
        return ["--replay-url", "/all/{channel}"]


class Durable(System):
    key, name, template, port = "durable", "durable-streams", "durable", 24130
    about = "the Rust server of Durable Streams, `--durability memory`, 2 worker threads; keeps all events"

    def binary(self):
        return self.places.peers / "durable-streams" / "bin" / "durable-streams-server"

    def version(self):
        if not self.binary().exists():
            return None
        listed = output(["cargo", "install", "--list", "--root", self.places.peers / "durable-streams"])
        return listed.split(":")[0].removeprefix("durable-streams v")

    def prepare(self):
        return [self.binary(), "--host", "127.0.0.1", "--port", str(self.port), "--durability", "memory",
                "--worker-threads", str(THREADS), "--data-dir", self.run / "data"], {}


class Pushpin(System):
    key, name, template, port = "pushpin", "Pushpin", "plain", 24140
    history = False
    ramp = 500             # it answers 502 when a thousand come at once
    about = "Pushpin with condure and zurl, and a small nginx as the origin behind it; all their processes count"

    def version(self):
        needed = ("pushpin", "condure", "zurl", "nginx")
        if not all(shutil.which(name) for name in needed) or not internal_conf():
            return None
        return debian("pushpin") or output(["pushpin", "--version"]).split()[-1]

    def prepare(self):
        ports = {"PORT_ORIGIN": self.port + 1, "PORT_PUBLISH": self.port + 2, "PORT_PUSH": self.port + 3,
                 "PORT_SUB": self.port + 4, "PORT_COMMAND": self.port + 5}
        origin = self.fill("pushpin-origin.conf", "origin.conf", USER=nginx_user(), **ports)
        config = self.fill("pushpin.conf", "pushpin.conf", **ports)
        (self.run / "routes").write_text(f"* 127.0.0.1:{self.port + 1}\n")
        # Debian's file points to the sockets of a zurl that runs as a service; this one has its own.
        internal = internal_conf().read_text().replace("ipc:///var/run/zurl/zurl-", "ipc://{rundir}/{ipc_prefix}zurl-")
        (self.run / "internal.conf").write_text(internal)
        for name in ("run", "log"):
            (self.run / name).mkdir()
        script = 'nginx -e "$0/origin.log" -c "$1" & pushpin --config="$2" & wait'
        return ["sh", "-c", script, self.run, origin, config], {}

    def ready_url(self):
        return f"{self.url()}/ready"  # the origin answers 404 through the whole chain

    def generator(self):
        item = r'{"channel":"{channel}","formats":{"http-stream":{"content":"data: {data}\n\n"}}}'
        return ["--publish-url", f"http://127.0.0.1:{self.port + 2}/publish/", "--subscribe-url", "/sub/{channel}",
                "--publish-body", '{"items":[' + item + "]}"]


class Mercure(System):
    key, name, template, port = "mercure", "Mercure", "mercure", 24150
    about = "the Mercure hub in Caddy, bolt transport with 10,000 updates"

    def binary(self):
        built = self.places.peers / "mercure" / "mercure"
        return built if built.exists() else shutil.which("mercure")

    def version(self):
        binary = self.binary()
        return output([binary, "version"]).split()[0] if binary else None

    def prepare(self):
        config = self.fill("mercure.Caddyfile", "Caddyfile")
        return [self.binary(), "run", "--adapter", "caddyfile", "--config", config], {"GOMAXPROCS": str(THREADS)}

    def generator(self):
        return ["--header", f"Authorization: Bearer {mercure_token()}"]


ALL = [Fanfare, Floor, Nchan, Durable, Pushpin, Mercure]


def output(command):
    """What a command prints, on whichever stream; nothing when it cannot be started."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout + done.stderr).strip()


def debian(package):
    """The upstream part of an installed Debian package's version."""
    found = output(["dpkg-query", "-W", "-f", "${Version}", package])
    return "" if not found or " " in found else found.split(":")[-1].split("-")[0].split("+")[0]


def internal_conf():
    places = ("/usr/lib/pushpin/internal.conf", "/usr/local/lib/pushpin/internal.conf")
    return next((Path(place) for place in places if Path(place).exists()), None)


def nginx_user():
    """As root, nginx would drop to a user that cannot read the files of this run."""
    return "user root;" if os.geteuid() == 0 else ""


def mercure_token():
    """A token that may publish anything, signed with the key in peers/mercure.Caddyfile."""
    key = "fanfare-comparison-only-not-a-secret"
    parts = [{"alg": "HS256", "typ": "JWT"}, {"mercure": {"publish": ["*"]}}]
    text = ".".join(base64url(json.dumps(part).encode()) for part in parts)
    return f"{text}.{base64url(hmac.digest(key.encode(), text.encode(), hashlib.sha256))}"


def base64url(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
