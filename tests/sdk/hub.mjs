// The hub as the tests use it: publish what a provider answers, read a channel as any client would,
// and read it once more as plain events.

import { createParser } from "eventsource-parser";

/** A channel of the hub at `url`. */
export class Channel {
  constructor(url, name, query) {
    this.url = `${url}/v1/channels/${name}`;
    this.readUrl = `${this.url}?${query}`;
  }

  /** Pipes a provider's response into the channel, as it is. */
  publish(response, close) {
    return fetch(`${this.url}?close=${close}`, {
      method: "POST",
      headers: { "content-type": response.headers.get("content-type") },
      body: response.body,
      duplex: "half",
    });
  }

  /** Says how the channel ended, when its publisher could not. */
  close(state) {
    const headers = { "content-type": "text/event-stream" };
    return fetch(`${this.url}?close=${state}`, { method: "POST", headers });
  }

  /** A `fetch` that opens an event stream of the channel, whatever it is asked for. */
  read = (_url, init) => {
    const headers = { accept: "text/event-stream" };
    return fetch(this.readUrl, { headers, signal: init?.signal });
  };

  /** `open`, `complete`, … */
  async state() {
    const response = await fetch(this.url, { method: "HEAD" });
    return response.headers.get("fanfare-state");
  }
}

/** The events of a body: `[type, data]` each; the hub's own are left out. */
export async function events(response) {
  const found = [];
  const parser = createParser({
    onEvent: ({ event, data }) => {
      if (!event?.startsWith("fanfare.")) found.push([event ?? "message", data]);
    },
  });
  await eachText(response, (text) => parser.feed(text));
  return found;
}

/** The lines of an NDJSON body, as the events that the hub makes of them. */
export async function lines(response) {
  let whole = "";
  await eachText(response, (text) => (whole += text));
  const ended = whole.slice(0, whole.lastIndexOf("\n") + 1);
  // White space before a line is a heartbeat.
  return ended.split("\n").map((data) => data.trimStart()).filter(Boolean).map((data) => ["message", data]);
}

/** What arrives; a body that breaks off ends there. */
async function eachText(response, take) {
  try {
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) take(text);
  } catch (error) {
    if (error.name === "AbortError") throw error;
  }
}
