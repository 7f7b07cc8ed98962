// The one experiment, for any format: an official client reads a generation from its source, and
// then the same generation from a channel: while it is published, from half-way through, and when it
// has ended. Each must give the same result, and the channel's events must be the source's, byte for
// byte.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

import { Channel, events, lines } from "./hub.mjs";

/**
 * Runs the experiment with a format: a module with a `name` and `collect({ fetch, source, prompt })`,
 * which lets the official client make one request with this `fetch`, and resolves to
 * `{ result, chunks, error }`: what the client made of the stream, the pieces that it saw on the way,
 * and the error with which it ended, or null. Two more are optional: `resume(url)` collects from a
 * channel's URL, and `lines` says that the stream is lines of JSON and no event stream.
 *
 * The settings are the URLs of the `hub` and the `source`; `close`, how the channel is closed; `read`,
 * a query with which it is read; and `coalesce`, a window. Coalesced, a client sees other chunks, but
 * must come to the same result.
 */
export async function check(format, prompt, { hub, source, close, read, coalesce }) {
  const eventsOf = format.lines ? lines : events;
  const query = ["from=earliest", format.lines ? "bare=lines" : read, coalesce && `coalesce=${coalesce}`].filter(Boolean).join("&");
  const channel = new Channel(hub, `sdk/${format.name}/${prompt}/${randomUUID()}`, query);
  const collect = (fetch) => format.collect({ fetch, source, prompt });

  let request;
  const direct = await collect((url, { method, headers, body }) => {
    request = [url, { method, headers, body }];
    return fetch(...request);
  });
  assert(direct.chunks.length > 1, "the source did not stream");

  const fromChannel = (...request) => channel.read(...request);
  let attach;
  const attached = new Promise((resolve) => (attach = resolve));
  const reads = { live: collect((...request) => fromChannel(...request).finally(attach)) };
  const liveEvents = channel.read().then(eventsOf);
  await attached;

  const published = publish(channel, await fetch(...request), close);
  await pause(50);
  reads.late = collect(fromChannel);
  const sourceEvents = await published;
  const state = await ended(channel);
  reads.replayed = collect(fromChannel);
  if (format.resume) reads.resumed = format.resume(channel.readUrl);

  for (const [when, seen] of Object.entries(reads)) compare(when, await seen, direct, prompt, coalesce);
  if (!coalesce) {
    assert.deepEqual(await liveEvents, sourceEvents, "the events, live");
    assert.deepEqual(await channel.read().then(eventsOf), sourceEvents, "the events, replayed");
  }
  if (close === "auto") assert.equal(state, { error: "error", cut: "abandoned" }[prompt] ?? "complete");
  return { chunks: direct.chunks.length, events: sourceEvents.length };
}

/** Pipes a response into the channel, as it is, and resolves to its events. */
async function publish(channel, response, close) {
  const [kept, piped] = response.body.tee();
  const { headers } = response;
  const isLines = headers.get("content-type").includes("ndjson");
  const sourceEvents = (isLines ? lines : events)({ body: kept });
  const receipt = await channel.publish({ headers, body: piped }, close).catch(() => null);
  if (receipt && !receipt.ok) throw new Error(`publish: ${receipt.status} ${await receipt.text()}`);
  // A publisher that says itself how it ended says so too when its source broke.
  if (!receipt && close !== "auto") await channel.close("error");
  return sourceEvents;
}

/** The state of a channel that ends soon. */
async function ended(channel) {
  for (;;) {
    const state = await channel.state();
    if (state !== "open") return state;
    await pause(20);
  }
}

function compare(when, seen, direct, prompt, coalesce) {
  // A provider's error is told as it was; a broken stream somehow, but it must not look whole.
  const failure = ({ error }) => (prompt === "cut" ? error !== null : error);
  assert.equal(failure(seen), failure(direct), `${when}: the client's error`);
  assert.deepEqual(seen.result, direct.result, `${when}: the result`);
  if (!coalesce) assert.deepEqual(seen.chunks, direct.chunks, `${when}: the chunks`);
}

/** A copy of a chunk: clients go on changing what they handed out. */
export const copy = (value) => JSON.parse(JSON.stringify(value));

/** What is told of an error. */
export const told = (error) => error?.message ?? String(error);
