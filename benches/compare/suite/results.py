"""What the runs say: loaded, and reduced to medians with their spread."""

import json
import statistics
from dataclasses import dataclass

import scenarios

# A peer that lost more than this share of its deliveries did less work; its CPU is not compared.
COMPLETE = 0.999


@dataclass
class Number:
    """A median with the least and the greatest value of its rounds."""

    median: float
    low: float
    high: float
    rounds: int

    @staticmethod
    def of(values):
        values = [value for value in values if value is not None]
        if not values:
            return None
        return Number(statistics.median(values), min(values), max(values), len(values))


class Cell:
    """All rounds of one system in one scenario."""

    def __init__(self, scenario, system, rounds):
        self.scenario = scenario
        self.system = system
        self.good = [result for result in rounds if "failed" not in result]
        self.failures = [result["failed"] for result in rounds if "failed" in result]

    def number(self, *path):
        return Number.of([dig(result, *path) for result in self.good])

    def total(self, *path):
        values = [dig(result, *path) for result in self.good]
        return sum(value for value in values if value)

    @property
    def cpu(self):
        return self.number("server", "cpu_us_per_delivery")

    @property
    def memory_per_subscriber(self):
        """What the processes grew by, as PSS, which counts shared pages once."""
        values = []
        for result in self.good:
            after, before = dig(result, "server", "pss_bytes"), dig(result, "memory_before", "pss")
            if after and before:
                values.append(max(0, after - before) / self.scenario.sockets)
        return Number.of(values)

    @property
    def share_delivered(self):
        expected = self.total("expected")
        return self.total("delivered") / expected if expected else None

    @property
    def share_published(self):
        offered = self.total("offered")
        return self.total("published") / offered if offered else None

    @property
    def complete(self):
        """Everything that was offered was published and delivered; a few may be missing for a peer."""
        shares = [self.share_delivered, self.share_published]
        return bool(self.good) and not self.failures and all(share is None or share >= COMPLETE for share in shares)

    @property
    def flawless(self):
        clean = not any(self.total(key) for key in ("lost", "duplicates", "disorder"))
        clean = clean and not any(self.total(*path) for path in (["publish_failed"], ["connections", "failed"]))
        whole = all(self.total(mine) == self.total(all_) for mine, all_ in (("delivered", "expected"), ("published", "offered")))
        return bool(self.good) and not self.failures and clean and whole and self.healthy

    @property
    def healthy(self):
        return bool(self.good) and all(
            result.get("alive_after") and result.get("healthy_after", True) for result in self.good)


def dig(result, *path):
    for key in path:
        if not isinstance(result, dict):
            return None
        result = result.get(key)
    return result


class Results:
    def __init__(self, raw):
        self.head = json.loads((raw / "head.json").read_text())
        self.cells = {}
        rounds = {}
        for path in sorted(raw.glob("*.*.*.json")):
            _, scenario, system, _ = path.name.split(".")
            rounds.setdefault((scenario, system), []).append(json.loads(path.read_text()))
        for (key, system), found in rounds.items():
            scenario = scenarios.by_key(key)
            if scenario:
                self.cells[key, system] = Cell(scenario, system, found)

    def cell(self, scenario, system):
        found = self.cells.get((scenario, system))
        return found if found and found.good else None

    def scenarios(self):
        return [scenario for scenario in scenarios.ALL if any(key == scenario.key for key, _ in self.cells)]

    def peers(self, scenario):
        return [cell for (key, system), cell in self.cells.items()
                if key == scenario and system not in ("fanfare", "floor") and cell.good]

    def best_peer(self, scenario, measure):
        """The peer with the least of a measure, among those that did the whole work; of all, when none did."""
        peers = [cell for cell in self.peers(scenario) if measure(cell)]
        whole = [cell for cell in peers if cell.complete]
        return min(whole or peers, key=lambda cell: measure(cell).median, default=None)
