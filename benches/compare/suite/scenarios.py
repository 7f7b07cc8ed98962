"""What is measured. Each scenario is one run of the load generator against a freshly started system."""

from dataclasses import dataclass, field


@dataclass
class Scenario:
    key: str
    title: str
    kind: str                          # of the load generator
    channels: int = 1
    subscribers: int = 1               # per channel
    rate: int = 0                      # events a second over all channels
    size: int = 32
    seconds: float = 4
    quick_seconds: float = 3
    warmup: float = 1
    publish: str = "post"
    options: list = field(default_factory=list)
    needs: str = ""                    # "history" or "streams"
    without: dict = field(default_factory=dict)   # systems that have no part in it, and why
    ramp: int = 0                      # connections a second; 0: as fast as they are taken
    rounds: int = 99                   # at most so many
    table: str = "fanout"              # which columns it has
    why: str = ""

    @property
    def sockets(self):
        return self.channels * self.subscribers

    def seconds_for(self, quick):
        return self.quick_seconds if quick else self.seconds

    def crowds(self, quick):
        """How many crowds come, one after the other."""
        return 1 if self.table != "return" else 3 if quick else 10

    def arguments(self, quick):
        seconds = self.seconds_for(quick)
        command = ["--scenario", self.kind, "--channels", self.channels, "--subscribers", self.subscribers,
                   "--size", self.size, "--duration", f"{seconds:g}s", "--warmup", f"{self.warmup:g}s"]
        if self.rate:
            command += ["--rate", self.rate]
        if self.kind in ("fanout", "ingest"):
            command += ["--publish", self.publish]
        if self.sockets > 2000:
            # Enough client addresses that ports in TIME_WAIT from the run before never matter.
            command += ["--source-addresses", 8]
        return [str(part) for part in command + self.options]

    def estimate(self, quick):
        """Seconds that a run takes, with start and stop; for the plan only."""
        working = {"fanout": self.seconds_for(quick) + self.warmup, "ingest": self.seconds_for(quick) + self.warmup,
                   "idle": self.seconds_for(quick) + 5, "storm": 6, "replay": 18, "connect": 2}[self.kind]
        if self.key in ("hot-1000", "hot-4000"):
            working += 6  # most are still working off what has piled up
        return self.crowds(quick) * (working + self.sockets / 10_000) + 2


ENOUGH = "not run, saturated by less"

ALL = [
    Scenario("hot-20", "1 channel × 1000 subscribers, 20 events/s", "fanout", 1, 1000, 20, seconds=5,
             why="A hot channel at a rate where each event goes out on its own."),
    Scenario("hot-100", "1 channel × 1000 subscribers, 100 events/s", "fanout", 1, 1000, 100, seconds=5,
             why="The same, busier; still one write per delivery."),
    Scenario("hot-1000", "1 channel × 1000 subscribers, 1000 events/s", "fanout", 1, 1000, 1000,
             without={"pushpin": ENOUGH},
             why="More than one write per delivery can carry here: who can put events together?"),
    Scenario("hot-4000", "1 channel × 1000 subscribers, 4000 events/s", "fanout", 1, 1000, 4000,
             without={"pushpin": ENOUGH}, why="Four million deliveries a second are asked for."),
    Scenario("wide", "1 channel × 10,000 subscribers, 5 events/s", "fanout", 1, 10_000, 5, seconds=5,
             without={"pushpin": ENOUGH}, why="A large audience."),
    Scenario("llm-2000", "200 channels × 10 subscribers, 2000 events/s, a POST per event", "fanout", 200, 10, 2000,
             why="Many generations, each with a few viewers; one request per token."),
    Scenario("llm-8000", "200 channels × 10 subscribers, 8000 events/s, a POST per event", "fanout", 200, 10, 8000,
             without={"pushpin": ENOUGH}, why="The same, at a rate where something has to give."),
    Scenario("llm-2000-stream", "200 channels × 10 subscribers, 2000 events/s, streamed bodies", "fanout", 200, 10, 2000,
             publish="stream", needs="streams", why="As `llm-2000`, each generation published as one long request."),
    Scenario("llm-8000-stream", "200 channels × 10 subscribers, 8000 events/s, streamed bodies", "fanout", 200, 10, 8000,
             publish="stream", needs="streams", why="As `llm-8000`, streamed."),
    Scenario("tokens", "1000 channels × 2 subscribers, 100 events/s each, streamed bodies", "fanout", 1000, 2, 100_000,
             publish="stream", needs="streams", why="A thousand generations at full speed."),
    Scenario("slow", "1 channel × 100 subscribers, one of which never reads, 1000 events/s", "fanout", 1, 100, 1000,
             size=256, options=["--slow-readers", "1"], without={"pushpin": ENOUGH},
             why="Does one stalled reader cost the others anything? Only theirs are counted."),
    Scenario("latency", "1 channel × 1 subscriber, 10 events/s", "fanout", 1, 1, 10, seconds=7, quick_seconds=4,
             table="light", why="From the moment an event is due to the moment it is read, with nothing else going on."),
    Scenario("replay", "1000 subscribers join at once, 10,000 events behind", "replay", 1, 1000,
             options=["--history", "10000"], needs="history", rounds=2, table="replay",
             why="Ten million events to catch up with."),
    Scenario("storm", "10,000 subscribers reconnect at once with their last event id", "storm", 1, 10_000,
             options=["--history", "200"], needs="history", rounds=2, table="storm",
             why="What follows a restart of a proxy; each has missed 200 events."),
    Scenario("connect", "10,000 subscribers connect as fast as they are taken", "connect", 1, 10_000, rounds=2,
             without={"pushpin": "not run, refuses crowds (its origin is asked for each)"},
             table="connect", why="Connection rate, up to the first bytes of the stream."),
    Scenario("ingest", "one publisher, one streamed body, as fast as it is taken", "ingest", 1, 0, seconds=4,
             quick_seconds=2, publish="stream", needs="streams", table="ingest",
             why="Events a second that one connection can publish into a channel's history."),
    Scenario("idle", "15,000 idle subscribers", "idle", 1, 15_000, seconds=3, quick_seconds=2, rounds=1, table="idle",
             ramp=5000,
             why="What a subscriber costs that has nothing to read. Memory of the processes; the kernel's share is the same for all."),
    Scenario("return", "15,000 subscribers come and go, again and again", "idle", 1, 15_000, seconds=1, quick_seconds=1,
             rounds=1, table="return", why="Is the memory given back?",
             without={key: "not asked" for key in ("floor", "nchan", "durable", "pushpin", "mercure")}),
]


def by_key(key):
    return next((scenario for scenario in ALL if scenario.key == key), None)


def applies(scenario, system):
    """None, or why the system has no part in the scenario."""
    if system.key in scenario.without:
        return scenario.without[system.key]
    if scenario.needs == "history" and not system.history:
        return "has no history"
    if scenario.needs == "streams" and not system.streams:
        return "takes one event per request"
    return None
