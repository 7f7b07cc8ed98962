// One client in one scenario: a hub, a relay and a client of their own, and what was found.

import { setTimeout as pause } from "node:timers/promises";

import { Hub } from "./hub.mjs";
import { Relay } from "./relay.mjs";

export { pause };

/** How long something may take that should happen, in milliseconds: the machine may be busy. */
const PATIENCE = Number(process.env.PATIENCE ?? 30_000);
/** The same where the client is known not to do it. */
const SHORT = 4000;

export class Trial {
  checks = [];
  #stops = [];

  /** `start(url)` starts the client; `quirk(check)` is the reason why a check may fail, if there is one. */
  constructor(client, scenario, { start, quirk, seed }) {
    Object.assign(this, { client, scenario, start, quirk, seed });
  }

  async hub(settings, options) {
    const hub = await Hub.start({ SUBSCRIBERS__RECONNECT_DELAY: "500ms", ...settings }, options);
    this.#stops.push(() => hub.stop());
    this.relay = await Relay.start(hub.url, this.seed);
    this.#stops.push(() => this.relay.stop());
    return hub;
  }

  /** Starts the client, and waits until the hub has answered it. */
  async follow(path) {
    this.follower = await this.start(`${this.relay.url}${path}`);
    this.#stops.push(() => this.follower.stop());
    await this.until(() => this.relay.requests.some(({ status }) => status !== null));
    return this.follower;
  }

  async stop() {
    for (const stop of this.#stops.reverse()) await stop();
  }

  /** Notes what was found: a check by its name, and what was seen if it fails. */
  check(name, holds, detail = "") {
    this.checks.push({ name, holds: Boolean(holds), detail: holds ? "" : String(detail) });
  }

  /**
   * Waits until it holds, or the client has gone, or it has taken too long; says whether it holds.
   * Less long if the client is known to fail one of these checks.
   */
  async until(condition, ...checks) {
    const short = checks.some((check) => this.quirk(check));
    const end = Date.now() + (short ? SHORT : PATIENCE);
    let left = 2;
    while (!condition()) {
      // What it has printed last may still be on its way.
      if (Date.now() > end || (this.follower?.gone && left-- === 0)) return condition();
      await pause(this.follower?.gone ? 300 : 20);
    }
    return true;
  }

  /** Waits for these events, and compares them with what the client was told. */
  async expect(published) {
    const expected = published.map((event) => this.client.alters?.(event) ?? event);
    const seen = () => this.follower.published.length;
    await this.until(() => seen() >= expected.length, "lost", "altered");
    // Whatever comes twice comes now.
    await pause(300);
    this.compare(expected);
  }

  compare(expected) {
    const text = ({ event, data }) => JSON.stringify([event, data]);
    const seen = this.follower.published.map(text);
    const wanted = expected.map(text);
    const [isSeen, isWanted] = [new Set(seen), new Set(wanted)];
    const lost = wanted.filter((event) => !isSeen.has(event));
    const altered = [...isSeen].filter((event) => !isWanted.has(event));
    const some = (list) => `${list.length}: ${list.slice(0, 3).map((event) => event.slice(0, 60)).join(" ")}`;
    this.check("lost", lost.length === 0, `${some(lost)} of ${wanted.length}; ${this.told()}`);
    this.check("doubled", seen.length === isSeen.size, `${seen.length - isSeen.size}`);
    this.check("altered", altered.length === 0, some(altered));
    const order = seen.filter((event) => isWanted.has(event));
    const inOrder = [...new Set(order)].join() === wanted.filter((event) => isSeen.has(event)).join();
    this.check("order", inOrder, "not in the order of the channel");
    const empty = this.follower.events.filter(({ event, data }) => !event.startsWith("fanfare.") && !data);
    this.check("empty", empty.length === 0, `${empty.length} events without data`);
  }

  /** No request may come sooner behind an end than `retry:` has said. */
  pace() {
    const early = this.relay.pauses().filter(({ waited, retry }) => waited < retry * 0.9 - 20);
    const some = early.slice(0, 5).map(({ waited, retry }) => `${waited} of ${retry} ms`);
    this.check("pace", early.length === 0, `${early.length} requests came early: ${some.join(", ")}`);
  }

  /** What the client said last, and how often it asked: for those who look for the reason. */
  told() {
    const requests = this.relay.requests.map(({ status, id }) => `${status}${id ? " with id" : ""}`);
    const last = this.follower.notes.slice(-3).join(" | ").slice(0, 300);
    return `requests: ${requests.slice(-6).join(", ")}; notes: ${last}`;
  }
}
