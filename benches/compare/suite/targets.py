"""What Fanfare promises to reach, and whether it did in this run."""

from dataclasses import dataclass


@dataclass
class Verdict:
    goal: str
    scenario: str
    measured: str
    target: str
    reached: bool


def cpu(cell):
    return cell.cpu


def p99(cell):
    return cell.number("latency_us", "p99")


def all_verdicts(results):
    found = []
    for key in ("hot-20", "hot-100"):
        found += against_floor(results, "Hot channel, un-batched: CPU per delivery", key, 1.0)
        found += against_peer(results, "Hot channel, un-batched: CPU per delivery", key, 1.0, cpu)
    for key in ("hot-1000", "hot-4000"):
        found += against_peer(results, "Saturated: CPU per delivery", key, 0.6, cpu)
        found += nothing_lost(results, "Saturated: nothing lost", key)
        found += against_peer(results, "Saturated: p99", key, 1.0, p99)
    for key in ("llm-2000", "llm-8000"):
        found += against_floor(results, "Many generations, a POST per event: CPU per delivery", key, 1.25)
        found += against_peer(results, "Many generations, a POST per event: CPU per delivery", key, 1.0, cpu)
        found += against_floor(results, "Many generations, streamed: CPU per delivery", f"{key}-stream", 1.0, floor=key)
    found += light_load(results)
    found += idle_memory(results)
    found += all_complete(results)
    found += given_back(results)
    return found


def ratio(goal, scenario, ours, theirs, whose, most):
    value = ours / theirs if theirs else 0
    return [Verdict(goal, scenario, f"{value:.2f} × {whose}", f"≤ {most:g} × {whose}", value <= most)]


def against_floor(results, goal, key, most, floor=None):
    ours, theirs = results.cell(key, "fanfare"), results.cell(floor or key, "floor")
    if not ours or not theirs or not ours.cpu or not theirs.cpu:
        return []
    return ratio(goal, key, ours.cpu.median, theirs.cpu.median, "floor", most)


def against_peer(results, goal, key, most, measure):
    ours, best = results.cell(key, "fanfare"), results.best_peer(key, measure)
    if not ours or not best:
        return []
    if not measure(ours):
        return [Verdict(goal, key, "nothing in time", f"≤ {most:g} × best peer", False)]
    name = "best peer" if best.complete else "best peer (which lost events)"
    return ratio(goal, key, measure(ours).median, measure(best).median, name, most)


def nothing_lost(results, goal, key):
    ours = results.cell(key, "fanfare")
    if not ours:
        return []
    lost = ours.total("expected") - ours.total("delivered")
    taken = ours.share_published or 0
    measured = f"{lost:,} lost" + (f", {taken:.0%} published in time" if taken < 1 else "")
    return [Verdict(goal, key, measured, "0 lost, all published", lost == 0 and taken == 1)]


def light_load(results):
    ours, floor = results.cell("latency", "fanfare"), results.cell("latency", "floor")
    if not ours or not floor:
        return []
    mine, theirs = (cell.number("latency_us", "p50") for cell in (ours, floor))
    if not mine or not theirs:
        return []
    return ratio("Light load: publish to receive, p50", "latency", mine.median, theirs.median, "floor", 1.2)


def idle_memory(results):
    ours = results.cell("idle", "fanfare")
    memory = ours.memory_per_subscriber if ours else None
    if not memory:
        return []
    return [Verdict("User memory of an idle subscriber", "idle", f"{memory.median:,.0f} bytes", "≤ 256 bytes",
                    memory.median <= 256)]


def all_complete(results):
    ours = [cell for (_, system), cell in results.cells.items() if system == "fanfare"]
    flawed = [cell.scenario.key for cell in ours if not cell.flawless]
    measured = f"{len(ours) - len(flawed)} of {len(ours)} scenarios"
    if flawed:
        measured += f" (not: {', '.join(sorted(flawed))})"
    goal = "All delivered, in order, no duplicate, healthy afterwards"
    return [Verdict(goal, "all", measured, "every scenario", not flawed)] if ours else []


def given_back(results):
    """Back to the start, give or take what an allocator keeps for next time."""
    ours = results.cell("return", "fanfare")
    if not ours:
        return []
    memory = [sample["pss"] / 2**20 for sample in ours.good[0]["memory"]]
    most = memory[0] + max(4.0, 0.1 * memory[0])
    return [Verdict(f"Memory after {len(memory) - 1} crowds of 15,000 subscribers came and went", "return",
                    f"{memory[0]:.1f} → {memory[-1]:.1f} MiB", f"≤ {most:.1f} MiB", memory[-1] <= most)]
