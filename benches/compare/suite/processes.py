"""What /proc says about a tree of processes, and how to end one."""

import os
import signal
import time
from pathlib import Path


def tree(root):
    """The process and all its descendants."""
    children = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except (OSError, IndexError):
                continue
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, waiting = [], [root]
    while waiting:
        pid = waiting.pop()
        found.append(pid)
        waiting.extend(children.get(pid, []))
    return found


def cpu_seconds(root):
    """User and system time of the tree, up to now."""
    ticks = 0
    for pid in tree(root):
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def memory(root):
    """RSS and PSS of the tree, in bytes. PSS counts a page that is shared by two processes once."""
    rss = pss = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if line.startswith("Rss:"):
                rss += int(line.split()[1]) * 1024
            elif line.startswith("Pss:"):
                pss += int(line.split()[1]) * 1024
    return {"rss": rss, "pss": pss}


def settled_memory(root, patience=6.0):
    """Memory once it has stopped falling; at most `patience` seconds later."""
    last = memory(root)
    end = time.monotonic() + patience
    while time.monotonic() < end:
        time.sleep(1.0)
        now = memory(root)
        if now["pss"] > last["pss"] * 0.99:
            return now
        last = now
    return last


def end(process, patience=5.0):
    """Ends a process that was started in a session of its own, and all that it started."""
    pids = tree(process.pid) if process.poll() is None else []
    for number, seconds in ((signal.SIGTERM, patience), (signal.SIGKILL, 2.0)):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass
        limit = time.monotonic() + seconds
        while time.monotonic() < limit:
            process.poll()
            if process.returncode is not None and not any(alive(pid) for pid in pids):
                return
            time.sleep(0.05)
    for pid in pids:  # one that made a session of its own
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (OSError, IndexError):
        return False
    return state != "Z"
