// A client that follows a URL: a process, or a frame in a browser. Either prints lines of JSON.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

export class Follower {
  /** What it was told: `{ event, data, id, t }` for events, `{ note, t }` for all else. */
  lines = [];
  /** Whether it has ended, or says that it will do nothing more. */
  gone = false;

  take(line) {
    this.lines.push(line);
    if (["closed", "whole"].includes(line.note) || line.note?.startsWith("failed")) this.gone = true;
  }

  get events() {
    return this.lines.filter(({ note }) => note === undefined);
  }

  /** The channel's own events. */
  get published() {
    return this.events.filter(({ event, data }) => !event.startsWith("fanfare.") && data);
  }

  /** The hub's events of this type. */
  named(type) {
    return this.events.filter(({ event }) => event === type);
  }

  get notes() {
    return this.lines.filter(({ note }) => note !== undefined).map(({ note }) => note);
  }
}

/** Starts a process that prints lines. */
export function follow(command) {
  const [program, ...rest] = command;
  const follower = new Follower();
  // A group of its own, since some start another process.
  const child = spawn(program, rest, { stdio: ["ignore", "pipe", "pipe"], detached: true });
  createInterface(child.stdout).on("line", (line) => {
    try {
      follower.take(JSON.parse(line));
    } catch {
      follower.take({ note: line });
    }
  });
  createInterface(child.stderr).on("line", (line) => follower.take({ note: `stderr: ${line}` }));
  const ended = new Promise((resolve) => child.on("close", resolve));
  child.on("error", (error) => follower.take({ note: `failed: ${error.message}` }));
  ended.then(() => (follower.gone = true));
  follower.stop = () => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch {
      // It has ended by itself.
    }
    return ended;
  };
  return follower;
}
