"""Compares Fanfare with other servers on this machine. See `../run --help`."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import machine
import peers
import report
import runner
import scenarios
import systems
from tell import say, shout

ROOT = Path(__file__).resolve().parents[3]


class Places:
    """Where things lie, and on which cores they run."""

    def __init__(self):
        self.root = ROOT
        self.target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
        self.work = self.target / "compare"
        self.peers = self.work / "peers"
        self.runs = self.work / "runs"
        self.raw = self.work / "raw"
        self.fanfare = self.target / "release" / "fanfare"
        self.floor = self.work / "floor" / "release" / "floor"
        self.cores = sorted(os.sched_getaffinity(0))

    def split(self):
        """With four cores or more, servers have two of them for themselves."""
        return len(self.cores) >= 4 and bool(shutil.which("taskset"))

    def pinned(self, command, client=False):
        words = [str(word) for word in command]
        if not self.split():
            return words
        mine = self.cores[2:] if client else self.cores[:2]
        return ["taskset", "-c", ",".join(map(str, mine)), *words]


def arguments():
    parser = argparse.ArgumentParser(prog="benches/compare/run", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round: under 10 minutes")
    parser.add_argument("--rounds", type=int, help="how often everything is run (3; with --quick 1)")
    parser.add_argument("--only", action="append", metavar="SCENARIO", help="run this scenario only; may be repeated")
    parser.add_argument("--systems", metavar="A,B", help="compare these systems only")
    parser.add_argument("--minutes", type=float, help="give up what does not fit (38; with --quick 9.5)")
    parser.add_argument("--no-install", action="store_true", help="compare with what is installed already")
    parser.add_argument("--no-build", action="store_true", help="use the binaries that are built already")
    parser.add_argument("--report", action="store_true", help="run nothing, write the document from the last results")
    parser.add_argument("--list", action="store_true", help="list scenarios and systems")
    asked = parser.parse_args()
    asked.rounds = asked.rounds or (1 if asked.quick else 3)
    asked.minutes = asked.minutes or (9.5 if asked.quick else 38)
    return asked


def chosen(asked, places):
    """Scenarios and systems that were asked for."""
    wanted = asked.only or [scenario.key for scenario in scenarios.ALL]
    found = [scenarios.by_key(key) for key in wanted]
    if None in found:
        raise SystemExit(f"compare: no scenario {wanted[found.index(None)]!r}; --list shows them")
    every = [kind(places) for kind in systems.ALL]
    if asked.systems:
        keys = asked.systems.split(",")
        unknown = set(keys) - {system.key for system in every}
        if unknown:
            raise SystemExit(f"compare: no system {', '.join(sorted(unknown))}; --list shows them")
        every = [system for system in every if system.key in keys]
    return found, every


def show_list(places):
    for scenario in scenarios.ALL:
        print(f"{scenario.key:16} {scenario.title}")
    print()
    for kind in systems.ALL:
        print(f"{kind.key:16} {kind.name}: {kind.about}")


def plan(asked, found, present):
    """All runs in their order. Every round begins with another system, so that none is always first."""
    steps = []
    for number in range(asked.rounds):
        for scenario in found:
            if number >= scenario.rounds:
                continue
            turn = number % len(present)
            for system in present[turn:] + present[:turn]:
                if scenarios.applies(scenario, system) is None:
                    steps.append((number, scenario, system))
    return steps


def carry_out(steps, asked, places, began):
    """Runs the plan; leaves out what the time does not allow. Returns how many runs were left out."""
    left_out = 0
    # Measured, not guessed, once there is something to go by.
    pace = 1.0
    for at, (number, scenario, system) in enumerate(steps):
        estimate = scenario.estimate(asked.quick) * pace
        if time.monotonic() - began + estimate > asked.minutes * 60:
            left_out += 1
            continue
        started = time.monotonic()
        result = runner.run(system, scenario, asked.quick, places)
        spent = time.monotonic() - started
        pace = min(3.0, max(0.3, 0.9 * pace + 0.1 * spent / scenario.estimate(asked.quick)))
        runner.save(result, places.raw / f"{number}.{scenario.key}.{system.key}.json")
        say(f"{at + 1:3}/{len(steps)} round {number + 1} {scenario.key:15} {system.name:15} {runner.describe(result)}")
    if left_out:
        shout(f"{left_out} runs did not fit into {asked.minutes:g} minutes and were left out")
    return left_out


def header(asked, places, every, present, left_out):
    revision = systems.output(["git", "-C", places.root, "rev-parse", "--short", "HEAD"])
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "command": " ".join(["benches/compare/run", *sys.argv[1:]]),
        "quick": asked.quick,
        "rounds": asked.rounds,
        "machine": machine.facts(),
        "pinned": places.split(),
        "revision": revision if revision and " " not in revision else "",
        "versions": {system.key: system.version() for system in present},
        "absent": [system.key for system in every if system not in present],
        "left_out": left_out,
    }


def main():
    began = time.monotonic()
    asked = arguments()
    places = Places()
    if asked.list:
        return show_list(places)
    if asked.report:
        return report.write(places)
    found, every = chosen(asked, places)
    places.work.mkdir(parents=True, exist_ok=True)
    peers.build(places, asked.no_build)
    if not asked.no_install:
        peers.install([system for system in every if system.peer], places)
    if "bench" not in systems.output([places.fanfare, "--help"]):
        raise SystemExit("compare: this Fanfare has no `fanfare bench`, the load generator")
    present = [system for system in every if system.version()]
    for system in every:
        if system not in present:
            shout(f"{system.name} is not here and is left out of the comparison")
    if machine.load() > 0.7 * len(places.cores):
        shout(f"load average {machine.load():.1f}: something else is at work; numbers will be noise")

    shutil.rmtree(places.raw, ignore_errors=True)
    places.raw.mkdir(parents=True)
    steps = plan(asked, found, present)
    seconds = sum(scenario.estimate(asked.quick) for _, scenario, _ in steps)
    say(f"{len(steps)} runs, about {seconds / 60:.0f} minutes, at most {asked.minutes:g}")
    try:
        left_out = carry_out(steps, asked, places, began)
    finally:
        for system in present:
            system.stop()
    head = header(asked, places, every, present, left_out)
    (places.raw / "head.json").write_text(json.dumps(head, indent=1))
    report.write(places)


if __name__ == "__main__":
    main()
