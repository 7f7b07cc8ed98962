"""What the comparison ran on."""

import os
import platform
import resource
from pathlib import Path

from systems import output


def facts():
    return {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(field("/proc/meminfo", "MemTotal:") / 1024 / 1024),
        "kernel": platform.release().split("-")[0],
        "system": os_name(),
        "descriptors": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "rustc": " ".join(output(["rustc", "--version"]).split()[:2]),
        "python": platform.python_version(),
    }


def cpu_model():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def field(path, name):
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    return 0


def os_name():
    try:
        for line in Path("/etc/os-release").read_text().splitlines():
            if line.startswith("PRETTY_NAME="):
                return line.split("=", 1)[1].strip('"')
    except OSError:
        pass
    return platform.system()


def load():
    """The load average of the last minute: above the number of cores, others are at work too."""
    return os.getloadavg()[0]
