"""Writes the results into docs/benchmarks.md, between two markers; the text around them stays as it is."""

import plot
import scenarios
import systems
import targets
from results import Results
from tell import say
from words import (between, bytes_text, count, count_of, flaws, digits, micro, millis, plain,
                   relation, seconds, share, size, span, span_of, spread)

BEGIN = "<!-- compare:begin: written by benches/compare/run, do not edit -->"
END = "<!-- compare:end -->"

NAMES = {kind.key: kind.name for kind in systems.ALL}
ABOUT = {kind.key: kind.about for kind in systems.ALL}


def write(places):
    results = Results(places.raw)
    whole = not any(flag in results.head["command"] for flag in ("--only", "--systems"))
    # A part of the comparison is for whoever asked for it, not for the document.
    folder = places.root / "docs" if whole else places.work / "docs"
    images = folder / "benchmarks"
    images.mkdir(parents=True, exist_ok=True)
    for old in images.glob("*.svg"):
        old.unlink()
    drawn = plot.draw_all(results, NAMES, images)
    text = "\n\n".join(part for part in sections(results, drawn) if part)
    document = folder / "benchmarks.md"
    before, after = around(document)
    document.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}")
    say(f"written: {document}")


def around(document):
    """What stands before and behind the markers."""
    text = document.read_text() if document.exists() else "# Benchmarks\n\n"
    if BEGIN not in text or END not in text:
        return text.rstrip("\n") + "\n\n", "\n"
    return text.split(BEGIN, 1)[0], text.split(END, 1)[1]


def sections(results, drawn):
    yield "## This run"
    yield conditions(results)
    yield competitors(results)
    yield "## Targets"
    yield verdicts(results)
    yield "## At a glance"
    yield glance(results)
    for name, caption in drawn:
        yield f"![{caption}](benchmarks/{name})"
    yield "## Scenario by scenario"
    yield LEGEND
    for scenario in results.scenarios():
        yield f"### {scenario.title}\n\n`{scenario.key}` · {scenario.why}"
        yield TABLES[scenario.table](results, scenario)


LEGEND = """\
Numbers are medians over the rounds, with the least and the greatest in brackets. **CPU** is user and system time of all
processes of the server while events flow, divided by the deliveries. **Delivered** is what subscribers received, of what
was published; **published** is what the server acknowledged, of what was offered on an open-loop schedule. **Lost**,
**duplicates** and **disorder** are added up over all rounds. Latency runs from the moment at which an event was due to
be sent, to the moment at which a subscriber has read it; there is none where a server was so far behind that nothing due
in the measured time was published. **Memory** is the PSS of all processes, history included."""


def conditions(results):
    head = results.head
    machine = head["machine"]
    cores = ("servers on two cores, the load generator on the others" if head["pinned"]
             else "shared by servers and load generator")
    rounds = "1 round" if head["rounds"] == 1 else f"{head['rounds']} rounds"
    quick = ", short (`--quick`): good for a first look only" if head["quick"] else ""
    rows = [
        ("command", f"`{head['command']}`"),
        ("date", f"{head['date']}, {rounds}{quick}"),
        ("machine", f"{machine['cores']} cores ({machine['cpu']}), {cores}; {machine['memory_gib']} GiB of memory"),
        ("system", f"{machine['system']}, Linux {machine['kernel']}; {machine['descriptors']:,} descriptors per process"),
        ("compiler", machine["rustc"]),
        ("alike for all", "2 worker threads, history of 10,000 events per channel in memory, heartbeat every 15 s, loopback, "
         "plain HTTP/1.1; one system at a time, started afresh for each run, in turns"),
    ]
    if head["left_out"]:
        rows.append(("left out", f"{head['left_out']} runs that did not fit into the time"))
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows)])


def competitors(results):
    head = results.head
    lines = ["| system | version | what it is |", "|---|---|---|"]
    for key, version in head["versions"].items():
        revision = f" ({head['revision']})" if key == "fanfare" and head["revision"] else ""
        version = version.removeprefix("fanfare ") if key == "fanfare" else version
        lines.append(f"| {NAMES[key]} | {version}{revision} | {ABOUT[key]} |")
    if head["absent"]:
        absent = ", ".join(NAMES[key] for key in head["absent"])
        lines.append(f"\nNot here, and so not compared: {absent}.")
    return "\n".join(lines)


def verdicts(results):
    found = targets.all_verdicts(results)
    if not found:
        return "This run did not measure any."
    lines = ["| goal | scenario | measured | target | |", "|---|---|---|---|---|"]
    for verdict in found:
        mark = "reached" if verdict.reached else "**missed**"
        lines.append(f"| {verdict.goal} | `{verdict.scenario}` | {verdict.measured} | {verdict.target} | {mark} |")
    return "\n".join(lines)


def glance(results):
    lines = ["CPU of the server per delivery, and Fanfare's in relation to the floor and to the best peer (the one that "
             "needs least, of those that delivered everything).", "",
             "| scenario | Fanfare | floor | best peer | ÷ floor | ÷ best peer |", "|---|--:|--:|--:|--:|--:|"]
    for scenario in results.scenarios():
        ours = results.cell(scenario.key, "fanfare")
        if scenario.table != "fanout" or not ours or not ours.cpu:
            continue
        base = scenario.key.removesuffix("-stream")
        floor = results.cell(base, "floor")
        best = results.best_peer(base, targets.cpu)
        theirs = f"{micro(best.cpu)} {NAMES[best.system]}{'' if best.complete else ' (incomplete)'}" if best else "–"
        lines.append(
            f"| `{scenario.key}` | {micro(ours.cpu)} | {micro(floor.cpu if floor else None)} | {theirs} "
            f"| {relation(ours.cpu, floor.cpu if floor else None)} | {relation(ours.cpu, best.cpu if best else None)} |")
    lines.append("\nStreamed scenarios are held against the same load with a POST per event: the others have no other way.")
    return "\n".join(lines)


def fanout_table(results, scenario):
    head = ["system", "CPU per delivery", "÷ floor", "deliveries/s", "published", "delivered", "lost", "duplicates",
            "disorder", "p50", "p99", "max", "memory"]
    floor = results.cell(scenario.key, "floor")

    def row(cell):
        latency = [span(cell.number("latency_us", key)) for key in ("p50", "p99", "max")]
        return [spread(cell.cpu, "µs"), relation(cell.cpu, floor.cpu if floor else None),
                count(cell.number("deliveries_per_second")), share(cell.share_published),
                share(cell.share_delivered), *flaws(cell), *latency,
                size(cell.number("server", "pss_bytes"))]

    return table(results, scenario, head, row)


def replay_table(results, scenario):
    head = ["system", "caught up, p50", "p99", "last", "CPU per delivery", "delivered", "lost", "duplicates", "disorder"]

    def row(cell):
        times = [millis(cell.number("catch_up_ms", key)) for key in ("p50", "p99", "max")]
        return [*times, spread(cell.cpu, "µs"), share(cell.share_delivered), *flaws(cell)]

    return table(results, scenario, head, row)


def storm_table(results, scenario):
    head = ["system", "resumed, p50", "p99", "last", "delivered", "lost", "duplicates", "disorder", "server CPU"]

    def row(cell):
        times = [millis(cell.number("resumed_ms", key)) for key in ("p50", "p99", "max")]
        return [*times, share(cell.share_delivered), *flaws(cell), seconds(cell.number("cpu_seconds_whole"))]

    return table(results, scenario, head, row)


def connect_table(results, scenario):
    head = ["system", "connections/s", "spread", "refused", "CPU per connection"]

    def row(cell):
        rate = cell.number("per_second") or cell.number("connections", "per_second")
        whole = cell.number("cpu_seconds_whole")
        return [count(rate), between(rate, count_of), f"{cell.total('connections', 'failed'):,}",
                f"{digits(whole.median / scenario.sockets * 1e6)} µs" if whole else "–"]

    return table(results, scenario, head, row)


def ingest_table(results, scenario):
    head = ["system", "events/s", "spread", "published", "CPU per event"]

    def row(cell):
        rate = cell.number("events_per_second")
        spent, events = cell.number("cpu_seconds_whole"), cell.number("published")
        each = f"{digits(spent.median / events.median * 1e6)} µs" if spent and events and events.median else "–"
        return [count(rate), between(rate, count_of), share(cell.share_published), each]

    return table(results, scenario, head, row)


def idle_table(results, scenario):
    head = ["system", "memory per subscriber", "before", "with all of them", "connected", "refused"]

    def row(cell):
        return [size(cell.memory_per_subscriber), size(cell.number("memory_before", "pss")),
                size(cell.number("server", "pss_bytes")), f"{cell.total('connections', 'opened'):,}",
                f"{cell.total('connections', 'failed'):,}"]

    return table(results, scenario, head, row)


def return_table(results, scenario):
    cell = results.cell(scenario.key, "fanfare")
    if not cell:
        return table(results, scenario, ["system"], lambda _: [])
    memory = cell.good[0]["memory"]
    peaks = [None, *cell.good[0]["peak"]]
    lines = ["| crowd | with the crowd | after it left |", "|--:|--:|--:|"]
    for number, (peak, after) in enumerate(zip(peaks, memory)):
        lines.append(f"| {number or 'before'} | {bytes_text(peak) if peak else ''} | {bytes_text(after['pss'])} |")
    return "\n".join(lines)


def light_table(results, scenario):
    head = ["system", "p50", "spread", "÷ floor", "p90", "p99", "max", "lost", "duplicates", "disorder"]
    floor = results.cell(scenario.key, "floor")

    def row(cell):
        middle, base = cell.number("latency_us", "p50"), floor.number("latency_us", "p50") if floor else None
        rest = [span(cell.number("latency_us", key)) for key in ("p90", "p99", "max")]
        return [span(middle), between(middle, span_of), relation(middle, base), *rest, *flaws(cell)]

    return table(results, scenario, head, row)


TABLES = {"fanout": fanout_table, "light": light_table, "replay": replay_table, "storm": storm_table, "connect": connect_table,
          "ingest": ingest_table, "idle": idle_table, "return": return_table}


def table(results, scenario, head, row):
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    notes = []
    for kind in systems.ALL:
        cell = results.cells.get((scenario.key, kind.key))
        if not cell:
            why = scenarios.applies(scenario, kind) if kind.key in results.head["versions"] else None
            if why:
                notes.append(f"{kind.name}: {why}.")
            continue
        name = f"**{kind.name}**" if kind.key == "fanfare" else kind.name
        if not cell.good:
            lines.append(f"| {name} | no result |" + " |" * (len(head) - 2))
        else:
            lines.append(f"| {name} | {' | '.join(row(cell))} |")
        notes += [f"{kind.name}, a run without result: {plain(text)}." for text in cell.failures]
        failed = cell.total("connections", "failed")
        if failed and scenario.table not in ("connect", "idle"):
            notes.append(f"{kind.name}: {failed:,} connections failed.")
        if cell.good and not cell.healthy:
            notes.append(f"{kind.name} was not healthy afterwards.")
    return "\n".join(lines) + ("\n\n" + " ".join(notes) if notes else "")
