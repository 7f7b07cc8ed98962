// A TCP relay in front of the hub. It notes each request (when, which id, which status, when and how
// its body ended) and does to the bytes what networks do: cuts them anywhere, lets them dribble, or
// holds them.

import net from "node:net";

/** Numbers that look random and are the same in each run with this seed. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Relay {
  /** All requests but preflights, in the order in which they came. */
  requests = [];
  /** After how many bytes of a body the connection is cut: called for each body; null is never. */
  cutAfter = () => null;
  /** Whether bodies arrive in pieces of 1 to 5 bytes. */
  dribble = false;
  /** Whether the hub's bytes wait in the relay. */
  hold = false;
  /** Whether connections are reset as soon as they are made. */
  down = false;

  #links = new Set();

  constructor(seed) {
    this.random = random(seed);
  }

  static async start(target, seed) {
    const relay = new Relay(seed);
    relay.target = target;
    relay.server = net.createServer((socket) => relay.#accept(socket));
    await new Promise((resolve) => relay.server.listen(0, "127.0.0.1", resolve));
    relay.url = `http://127.0.0.1:${relay.server.address().port}`;
    return relay;
  }

  stop() {
    this.server.close();
    for (const link of this.#links) link.cut(true);
  }

  /** Cuts every connection; by a reset, or else as if the other side had closed it. */
  cut(reset) {
    for (const link of this.#links) link.cut(reset);
  }

  /** How long a client waited behind each end before it came again, and how long it was to wait. */
  pauses() {
    const found = [];
    let retry = null;
    this.requests.forEach((request, index) => {
      const before = this.requests[index - 1];
      if (before?.cleanAt <= request.at && retry !== null) {
        found.push({ waited: request.at - before.cleanAt, retry, status: request.status });
      }
      retry = request.retry ?? retry;
    });
    return found;
  }

  #accept(client) {
    if (this.down) return client.resetAndDestroy();
    const link = new Link(this, client);
    this.#links.add(link);
    client.on("close", () => this.#links.delete(link));
  }
}

/** One connection of the client, and one to the hub. */
class Link {
  #head = "";
  #current = null;
  #waiting = [];

  constructor(relay, client) {
    this.relay = relay;
    this.client = client;
    this.hub = net.connect({ port: relay.target.port, host: relay.target.hostname });
    client.setNoDelay();
    for (const socket of [client, this.hub]) socket.on("error", () => this.cut(true));
    client.on("data", (bytes) => this.#fromClient(bytes));
    this.hub.on("data", (bytes) => this.#fromHub(bytes));
    client.on("end", () => this.hub.end());
    client.on("close", () => this.hub.destroy());
    this.hub.on("end", () => this.#later(() => client.end()));
    this.hub.on("close", () => this.#later(() => client.destroySoon()));
  }

  cut(reset) {
    if (this.#current) this.#current.cutAt ??= Date.now();
    this.#waiting = [];
    this.hub.destroy();
    if (reset) this.client.resetAndDestroy();
    else this.client.destroySoon();
  }

  #fromClient(bytes) {
    this.#head += bytes.toString("latin1");
    for (let end; (end = this.#head.indexOf("\r\n\r\n")) >= 0; ) {
      this.#begin(this.#head.slice(0, end));
      this.#head = this.#head.slice(end + 4);
    }
    this.hub.write(bytes);
  }

  #begin(head) {
    const [method, target] = head.split(" ");
    const id = /^last-event-id: *(.*?)\r?$/im.exec(head)?.[1] ?? null;
    const request = { at: Date.now(), method, target, id, head, status: null, retry: null, bytes: 0 };
    Object.assign(request, { response: "", tail: "", cutAfter: null });
    this.#current = request;
    if (method !== "OPTIONS") this.relay.requests.push(request);
  }

  #fromHub(bytes) {
    const request = this.#current;
    if (!request) return this.#send(bytes);
    if (request.status === null) {
      request.response += bytes.toString("latin1");
      const end = request.response.indexOf("\r\n\r\n");
      if (end < 0) return this.#send(bytes);
      request.status = Number(request.response.split(" ")[1]);
      if (request.status !== 200) request.cleanAt = Date.now();
      else request.cutAfter = this.relay.cutAfter();
      // What has come behind the head.
      const begin = bytes.length - (request.response.length - end - 4);
      this.#send(bytes.subarray(0, begin));
      bytes = bytes.subarray(begin);
      if (bytes.length === 0) return;
    }
    if (request.cutAfter !== null && request.bytes + bytes.length >= request.cutAfter) {
      bytes = bytes.subarray(0, request.cutAfter - request.bytes);
      this.#note(request, bytes);
      this.client.write(bytes);
      return this.cut(this.relay.random() < 0.5);
    }
    this.#note(request, bytes);
    this.#send(bytes);
  }

  #note(request, bytes) {
    request.bytes += bytes.length;
    request.tail += bytes.toString("latin1");
    for (const [, retry] of request.tail.matchAll(/^retry: ?(\d+)\r?\n/gm)) request.retry = Number(retry);
    if (request.tail.endsWith("\r\n0\r\n\r\n")) request.cleanAt = Date.now();
    request.tail = request.tail.slice(-64);
  }

  /** Sends what the hub has sent, or queues it, if the relay holds or dribbles. */
  #send(bytes) {
    if (bytes.length === 0) return;
    if (!this.relay.hold && !this.relay.dribble && this.#waiting.length === 0) return this.client.write(bytes);
    this.#later(bytes);
  }

  #later(item) {
    this.#waiting.push(item);
    if (this.#waiting.length === 1) this.#drip();
  }

  #drip() {
    const [item] = this.#waiting;
    if (item === undefined || this.client.destroyed) return;
    if (this.relay.hold) return setTimeout(() => this.#drip(), 20);
    if (typeof item === "function") {
      this.#waiting.shift();
      item();
      return this.#drip();
    }
    // Long data in larger pieces: it would take minutes.
    const piece = item.length > 20_000 ? 9001 : 1 + Math.floor(this.relay.random() * 5);
    this.client.write(item.subarray(0, this.relay.dribble ? piece : item.length));
    this.#waiting[0] = item.subarray(piece);
    if (!this.relay.dribble || this.#waiting[0].length === 0) this.#waiting.shift();
    setImmediate(() => this.#drip());
  }
}
