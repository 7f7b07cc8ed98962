"""Getting what is compared: builds Fanfare and the floor, installs the peers that can be had here."""

import os
import shutil
import subprocess

from tell import say, shout

DEBIAN = {"nchan": ["nginx", "libnginx-mod-nchan"], "pushpin": ["nginx", "pushpin", "condure", "zurl"]}
DURABLE = "0.1.5"
MERCURE = "latest"

MERCURE_MAIN = """package main

import (
\tcaddycmd "github.com/caddyserver/caddy/v2/cmd"
\t_ "github.com/caddyserver/caddy/v2/modules/standard"
\t_ "github.com/dunglas/mercure/caddy"
)

func main() { caddycmd.Main() }
"""


def build(places, skip):
    """Fanfare and the floor, both optimised. Without them there is nothing to compare."""
    if not skip:
        say("building Fanfare (release)")
        must(["cargo", "build", "--release", "--bin", "fanfare"], places.root, {"CARGO_TARGET_DIR": str(places.target)})
        say("building the floor (release)")
        must(["cargo", "build", "--release"], places.root / "benches/compare/floor",
             {"CARGO_TARGET_DIR": str(places.work / "floor")})
    for binary in (places.fanfare, places.floor):
        if not binary.exists():
            raise SystemExit(f"compare: {binary.name} is not built; run without --no-build")


def install(systems, places):
    """Each peer that is missing, one after the other. What fails is said, and left out."""
    keys = {system.key for system in systems if system.version() is None}
    packages = sorted({package for key in keys for package in DEBIAN.get(key, [])})
    if packages:
        install_debian(packages)
    if "durable" in keys:
        install_durable(places)
    if "mercure" in keys:
        install_mercure(places)


def install_debian(packages):
    if not shutil.which("apt-get"):
        shout(f"no apt-get here; install by hand: {' '.join(packages)}")
        return
    if os.geteuid() != 0:
        shout(f"not root; to have these peers: sudo apt-get install --no-install-recommends {' '.join(packages)}")
        return
    say(f"installing {' '.join(packages)}")
    quiet = {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}  # installed, not started
    attempt(["apt-get", "update", "-qq"], 180, quiet)
    attempt(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages], 400, quiet)


def install_durable(places):
    say(f"installing durable-streams {DURABLE} with cargo")
    attempt(["cargo", "install", "durable-streams", "--version", DURABLE, "--locked",
             "--root", places.peers / "durable-streams", "--target-dir", places.work / "durable-streams"], 1200)


def install_mercure(places):
    if not shutil.which("go"):
        shout("Mercure is left out: neither a `mercure` binary nor a Go toolchain here")
        return
    say("building Mercure with go")
    source = places.peers / "mercure"
    source.mkdir(parents=True, exist_ok=True)
    (source / "main.go").write_text(MERCURE_MAIN)
    (source / "go.mod").write_text("module comparison\n\ngo 1.24\n")
    at = {"GOFLAGS": "-mod=mod"}
    done = (attempt(["go", "get", f"github.com/dunglas/mercure/caddy@{MERCURE}"], 300, at, source)
            and attempt(["go", "mod", "tidy"], 300, at, source)
            and attempt(["go", "build", "-o", "mercure", "."], 600, at, source))
    if not done:
        shout("Mercure is left out: its modules could not be had or built")


def attempt(command, seconds, environment=None, folder=None):
    """Runs a command that may fail. True: it did not."""
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, env={**os.environ, **(environment or {})}, cwd=folder, timeout=seconds,
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    except (OSError, subprocess.TimeoutExpired) as error:
        shout(f"{words[0]} failed: {error}")
        return False
    if done.returncode != 0:
        shout(f"`{' '.join(words[:3])} …` failed: {done.stdout.strip()[-600:]}")
    return done.returncode == 0


def must(command, folder, environment):
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
                          timeout=1800)
    if done.returncode != 0:
        raise SystemExit(f"compare: `{' '.join(command)}` failed")
