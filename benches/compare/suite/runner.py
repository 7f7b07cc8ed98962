"""One run: start a system, point the load generator at it, take down what both say, stop it."""

import json
import subprocess
import time

import processes
from systems import NotReady
from tell import say

# Beyond its own duration, what a run may take: connecting, catching up, draining.
PATIENCE = 45


def run(system, scenario, quick, places):
    """The result of one run as a dictionary; with the key "failed" when there is none."""
    try:
        system.start()
        if scenario.table == "return":
            return come_and_go(system, scenario, quick, places)
        return once(system, scenario, quick, places)
    except NotReady as problem:
        return {"failed": str(problem)}
    finally:
        system.stop()


def once(system, scenario, quick, places):
    pid = system.process.pid
    before, used = processes.memory(pid), processes.cpu_seconds(pid)
    result = generate(system, scenario, quick, places)
    result["memory_before"] = before
    result["cpu_seconds_whole"] = round(processes.cpu_seconds(pid) - used, 2)
    result["alive_after"] = system.process.poll() is None and system.answers()
    if not result["alive_after"]:
        result["last_words"] = system.last_words()
    return result


def come_and_go(system, scenario, quick, places):
    """Memory at the start, and after each crowd has left."""
    result = {"memory": [processes.memory(system.process.pid)], "peak": []}
    for _ in range(scenario.crowds(quick)):
        crowd = generate(system, scenario, quick, places)
        if "failed" in crowd:
            return crowd
        result["peak"].append(crowd.get("server", {}).get("pss_bytes"))
        result["memory"].append(processes.settled_memory(system.process.pid, 4))
    result["alive_after"] = system.answers()
    return result


def generate(system, scenario, quick, places):
    command = [places.fanfare, "bench", *scenario.arguments(quick), "--url", system.url(), "--template", system.template,
               "--pid", system.process.pid, "--pid-children", "--json", "--quiet", *system.generator()]
    ramps = [ramp for ramp in (scenario.ramp, system.ramp) if ramp]
    if ramps:
        command += ["--ramp", min(ramps)]
    words = [str(word) for word in command]
    limit = scenario.seconds_for(quick) + scenario.warmup + PATIENCE + scenario.sockets / min(ramps, default=10_000)
    started = time.monotonic()
    try:
        done = subprocess.run(places.pinned(words, client=True), capture_output=True, text=True, timeout=limit,
                              stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        return {"failed": f"no result after {limit:.0f} s"}
    if not done.stdout.strip():
        return {"failed": done.stderr.strip()[-300:] or f"the generator ended with {done.returncode}"}
    try:
        result = json.loads(done.stdout)
    except ValueError:
        return {"failed": f"not JSON: {done.stdout[:200]}"}
    result["seconds"] = round(time.monotonic() - started, 2)
    result["arguments"] = scenario.arguments(quick)
    return result


def describe(result):
    """A run in one line, for whoever watches."""
    if "failed" in result:
        return f"FAILED: {result['failed']}"
    parts = []
    server, latency = result.get("server") or {}, result.get("latency_us") or {}
    if result.get("expected"):
        parts.append(f"{result.get('delivered', 0):,} of {result['expected']:,}")
    if server.get("cpu_us_per_delivery") and result["delivered"] > 10_000:
        parts.append(f"{server['cpu_us_per_delivery']:.2f} µs each")
    if latency.get("p50"):
        parts.append(f"p50 {latency['p50'] / 1000:.2f} ms, p99 {latency.get('p99', 0) / 1000:.1f} ms")
    for key in ("lost", "duplicates", "disorder"):
        if result.get(key):
            parts.append(f"{result[key]:,} {key}")
    if "memory" in result:
        parts.append(f"{result['memory'][0]['pss'] >> 20} → {result['memory'][-1]['pss'] >> 20} MiB")
    for key, unit in (("per_second", "connections/s"), ("events_per_second", "events/s")):
        if result.get(key) and not result.get("expected"):
            parts.append(f"{result[key]:,.0f} {unit}")
    return ", ".join(parts) or "done"


def save(result, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1))
