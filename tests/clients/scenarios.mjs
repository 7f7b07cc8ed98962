// What is tried with each client. A scenario gets a trial, and leaves its checks there.

import { createHash } from "node:crypto";

import { pause } from "./trial.mjs";

const CHANNEL = "clients/one";
const PATH = `/v1/channels/${CHANNEL}`;

const message = (data) => ({ event: "message", data });
const numbered = (from, to) => Array.from({ length: to - from }, (_, n) => message(`event ${from + n}`));

/** Events that have tripped parsers. */
export const EVENTS = [
  message("one"),
  { event: "token", data: "two" },
  message("three\nlines\n\nand a blank one"),
  message("Grüße 你好 🎉 e\u0301"),
  message("  leading blanks, and trailing ones  "),
  message('{"delta":" three","choices":[{"index":0}],"text":"a\\nb"}'),
  message(": no comment"),
  message("data: no field"),
  message("0"),
  message(`large ${"Grüße 0123456789 ".repeat(11_000)}`),
];

/** What some take for the end of a line, and an event stream does not. */
export const SEPARATORS = message("next\u0085line\u2028separator\u000btab\u000cfeed\u001cfile end");

/** Publishes numbered events, so many a second, until `stop()`, which resolves to them. */
function producing(hub, perSecond) {
  const events = [];
  let running = true;
  const filler = "Grüße 你好 ".repeat(20);
  const done = (async () => {
    while (running) {
      const event = message(`event ${events.length} ${filler.slice(0, (events.length * 37) % filler.length)}.`);
      await hub.publish(CHANNEL, event);
      events.push(event);
      await pause(1000 / perSecond);
    }
    return events;
  })();
  // It is awaited later.
  done.catch(() => {});
  return () => {
    running = false;
    return done;
  };
}

/** Waits until the client has read what it was sent first. Not all of them tell. */
async function opened({ follower }) {
  const open = () => follower.named("fanfare.open").length > 0;
  for (let waited = 0; !open() && waited < 1500; waited += 50) await pause(50);
}

async function publish(hub, events) {
  const ids = [];
  for (const event of events) ids.push(await hub.publish(CHANNEL, event));
  return ids;
}

/** Every event is whole and in order, although its bytes dribble in; heartbeats are none. */
async function live(trial) {
  const hub = await trial.hub({ SUBSCRIBERS__HEARTBEAT: "200ms" });
  trial.relay.dribble = true;
  const follower = await trial.follow(PATH);
  const ids = await publish(hub, [...EVENTS, SEPARATORS]);
  await trial.until(() => follower.published.length > EVENTS.length, "lost", "altered");
  await pause(1500);
  const after = message("behind the heartbeats");
  ids.push(await hub.publish(CHANNEL, after));
  await trial.expect([...EVENTS, SEPARATORS, after]);
  const told = follower.published.map(({ id }) => id);
  trial.check("ids", told.every((id) => !id) || String(told) === String(ids), told.join());
  const requests = trial.relay.requests.length;
  trial.check("stays", requests === 1, `${requests} requests for one stream; ${trial.told()}`);
}

/** The connection breaks before the first event: what was published since the subscription is not lost. */
async function tail(trial) {
  const hub = await trial.hub();
  await trial.follow(PATH);
  await opened(trial);
  trial.relay.down = true;
  trial.relay.cut(false);
  const away = numbered(0, 5);
  await publish(hub, away);
  trial.relay.down = false;
  await trial.until(() => trial.relay.requests.length > 1, "lost");
  const back = numbered(5, 8);
  await publish(hub, back);
  await trial.expect([...away, ...back]);
}

/** Connections are cut at random bytes: nothing is lost, and nothing comes twice. */
async function cuts(trial) {
  const hub = await trial.hub();
  const { relay } = trial;
  // Not before the first id: who has none can only begin at the tail again.
  relay.cutAfter = () => (relay.requests.length === 1 ? 1000 : 1) + Math.floor(relay.random() * 3000);
  await trial.follow(PATH);
  await opened(trial);
  const stop = producing(hub, 25);
  await trial.until(() => relay.requests.length > 6, "resumes");
  relay.cutAfter = () => null;
  const events = await stop();
  const last = message("behind the cuts");
  await hub.publish(CHANNEL, last);
  await trial.expect([...events, last]);
  trial.check("resumes", relay.requests.length > 6, `${relay.requests.length} requests; ${trial.told()}`);
}

/** The hub ends streams cleanly, as `max_lifetime` has it: the same, and no client comes too soon. */
async function ends(trial) {
  const hub = await trial.hub({ SUBSCRIBERS__MAX_LIFETIME: "1s" });
  await trial.follow(PATH);
  const stop = producing(hub, 25);
  await trial.until(() => trial.relay.requests.length > 4, "resumes");
  const events = await stop();
  await trial.expect(events);
  const requests = trial.relay.requests.length;
  trial.check("resumes", requests > 4, `${requests} requests; ${trial.told()}`);
  trial.pace();
}

/** The channel ends once, and the client does not close the stream. Resolves to the requests after the end. */
async function ended(trial, settings, quiet) {
  const hub = await trial.hub(settings);
  const follower = await trial.follow(`${PATH}?from=earliest`);
  const events = numbered(0, 3);
  await publish(hub, events);
  await hub.close(CHANNEL);
  await trial.until(() => follower.named("fanfare.end").length > 0, "told");
  const before = trial.relay.requests.length;
  await pause(quiet);
  await trial.expect(events);
  const told = follower.named("fanfare.end").length;
  trial.check("told", told === 1, `told of the end ${told} times`);
  trial.pace();
  return trial.relay.requests.slice(before);
}

/** The client keeps away after the end. */
async function end(trial) {
  const later = await ended(trial, {}, 5000);
  trial.check("away", later.length === 0, `${later.length} requests in 5 s after the end; ${trial.told()}`);
}

/** With a short delay after the end, clients ask again: there is nothing more to come. */
async function again(trial) {
  const later = await ended(trial, { SUBSCRIBERS__END_RECONNECT_DELAY: "1s" }, 4000);
  // The last request may have no answer yet.
  const statuses = later.map(({ status }) => status).filter((status) => status !== null);
  trial.check("status", statuses.every((status) => status === 204), statuses.join());
}

/** The hub drains and is started again, and its channels are durable: nothing is lost. */
async function drain(trial) {
  const hub = await trial.hub({
    STORE__PATH: "FOLDER/store",
    STORE__DURABILITY: "async",
    DRAIN__WINDOW: "3s",
  });
  const { relay } = trial;
  await trial.follow(PATH);
  const stop = producing(hub, 25);
  await trial.until(() => trial.follower.published.length > 10, "lost");
  const before = relay.requests.length;
  await hub.signal("SIGTERM");
  const asked = relay.requests.length - before;
  trial.check("calm", asked <= 6, `${asked} requests in a drain of 3 s`);
  relay.down = true;
  relay.cut(true);
  await hub.run();
  relay.target = hub.url;
  relay.down = false;
  await pause(500);
  const events = await stop();
  const last = message("behind the restart");
  await hub.publish(CHANNEL, last);
  await trial.expect([...events, last]);
}

/** The hub is killed and its memory gone: the client is told of exactly one gap, and goes on. */
async function kill(trial) {
  const hub = await trial.hub();
  const { relay } = trial;
  const follower = await trial.follow(PATH);
  const before = numbered(0, 3);
  await publish(hub, before);
  await trial.until(() => follower.published.length === 3, "lost");
  relay.down = true;
  await hub.signal("SIGKILL");
  relay.cut(true);
  await hub.run();
  relay.target = hub.url;
  relay.down = false;
  const asked = relay.requests.length;
  await trial.until(() => relay.requests.slice(asked).some(({ status }) => status === 200), "gap", "lost");
  const after = numbered(3, 6);
  await publish(hub, after);
  await trial.expect([...before, ...after]);
  relay.cut(false);
  const again = numbered(6, 8);
  await publish(hub, again);
  trial.checks = [];
  await trial.expect([...before, ...after, ...again]);
  const gaps = follower.named("fanfare.gap").length;
  trial.check("gap", gaps === 1, `told of ${gaps} gaps; ${trial.told()}`);
}

const KEY = "ffk_a-key-for-the-tests-of-clients-only";
const HASH = createHash("sha256").update(KEY).digest("hex");
const GRANTS = ["publish", "subscribe", "signal", "admin"].map((grant) => `${grant} = ["**"]`).join(", ");
const AUTH = `
[auth]
query_token = true
signing_key = "env:CLIENTS_SIGNING_KEY"
[[auth.api_keys]]
name = "publisher"
hash = "sha256:${HASH}"
grants = { ${GRANTS} }
`;
const AUTH_OPTIONS = { file: AUTH, key: KEY, env: { CLIENTS_SIGNING_KEY: "a secret of tests, with 32 bytes and more" } };

/** A token that may subscribe, for so long. */
async function tokenFor(hub, ttl) {
  const wanted = JSON.stringify({ subscribe: ["**"], subject: "viewer", ttl });
  const answer = await hub.request("POST", "/v1/tokens", wanted);
  if (!answer.ok) throw new Error(`no token: ${answer.status} ${await answer.text()}`);
  return (await answer.json()).token;
}

/** No credential: the problem is no event, and nobody knocks without a pause. */
async function refused(trial) {
  await trial.hub({}, AUTH_OPTIONS);
  await trial.follow(PATH);
  await pause(4000);
  const { requests } = trial.relay;
  // The last may have no answer yet.
  const answered = requests.filter(({ status }) => status !== null);
  trial.check("status", answered.every(({ status }) => status === 401), trial.told());
  trial.check("calm", requests.length <= 9, `${requests.length} requests in 4 s`);
  const events = trial.follower.events.length;
  trial.check("silent", events === 0, `${events} events out of an error`);
}

/** The token expires: the client is told once, and does not knock with it all the time. */
async function expired(trial) {
  const hub = await trial.hub({}, AUTH_OPTIONS);
  const token = await tokenFor(hub, "3s");
  const follower = await trial.follow(`${PATH}?access_token=${token}`);
  const event = message("before");
  await hub.publish(CHANNEL, event);
  await trial.until(() => follower.named("fanfare.unauthenticated").length > 0, "told");
  const before = trial.relay.requests.length;
  await pause(4000);
  await trial.expect([event]);
  const told = follower.named("fanfare.unauthenticated").length;
  trial.check("told", told === 1, `told ${told} times that it is unauthenticated`);
  const later = trial.relay.requests.length - before;
  trial.check("away", later <= 1, `${later} requests in 4 s with a token that has expired`);
  trial.pace();
}

/** The hub is full, and then is not: whoever waits gets in by itself. */
async function full(trial) {
  const hub = await trial.hub({ CHANNELS__MAX_CHANNELS: "1" });
  await hub.request("PUT", "/v1/channels/other");
  await waits(trial, hub, () => hub.request("DELETE", "/v1/channels/other"));
}

/** The same where the client has used up its quota. */
async function quota(trial) {
  const hub = await trial.hub({ QUOTAS__MAX_SUBSCRIPTIONS: "1" }, AUTH_OPTIONS);
  const token = await tokenFor(hub, "1h");
  const place = new AbortController();
  const url = new URL(`/v1/channels/other?access_token=${token}`, hub.url);
  const other = await fetch(url, { signal: place.signal });
  other.body.getReader().read().catch(() => {});
  await waits(trial, hub, () => place.abort(), `&access_token=${token}`);
}

async function waits(trial, hub, makeRoom, more = "") {
  await trial.follow(`${PATH}?from=earliest${more}`);
  const { requests } = trial.relay;
  await trial.until(() => requests.length > 1, "enters");
  await makeRoom();
  const events = numbered(0, 3);
  await publish(hub, events);
  await trial.expect(events);
  const entered = trial.follower.published.length > 0;
  trial.check("enters", entered, `it did not come back; ${trial.told()}`);
  trial.pace();
}

const OPENAI = (content) => JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta: { content } }] });
const ANTHROPIC = (text) => JSON.stringify({ type: "content_block_delta", index: 0, delta: { type: "text_delta", text } });
const AI_SDK = (delta) => JSON.stringify({ type: "text-delta", id: "0", delta });

const DIALECTS = {
  openai: {
    piece: (text) => message(OPENAI(text)),
    end: [
      message(JSON.stringify({ object: "chat.completion.chunk", choices: [{ index: 0, delta: {}, finish_reason: "stop" }] })),
      message("[DONE]"),
    ],
  },
  anthropic: {
    piece: (text) => ({ event: "content_block_delta", data: ANTHROPIC(text) }),
    end: [{ event: "message_stop", data: '{"type":"message_stop"}' }],
  },
  ai: {
    piece: (text) => message(AI_SDK(text)),
    end: [message('{"type":"finish"}'), message("[DONE]")],
  },
};

/** A generation, bare, for the client of its provider: whole, over silence; and not whole if it breaks. */
async function generation(trial) {
  const hub = await trial.hub({ SUBSCRIBERS__HEARTBEAT: "200ms" });
  const { piece, end: mark } = DIALECTS[trial.client.dialect];
  const follower = await trial.follow(`${PATH}?bare&from=earliest`);
  const texts = ["Grüße", " 你好,", "  world\n", "!"];
  await publish(hub, texts.slice(0, 2).map(piece));
  await pause(1500);
  await publish(hub, [...texts.slice(2).map(piece), ...mark]);
  await hub.close(CHANNEL);
  await trial.until(() => follower.gone);
  const told = follower.events.map(({ data }) => data);
  trial.check("altered", told.join("|") === texts.join("|"), told.join("|"));
  trial.check("whole", follower.notes.includes("whole"), follower.notes.join());

  // The same once more, and the channel is cancelled.
  await hub.request("DELETE", PATH);
  await follower.stop();
  const cancelled = await trial.follow(`${PATH}?bare&from=earliest`);
  await publish(hub, texts.slice(0, 2).map(piece));
  await trial.until(() => cancelled.events.length === 2);
  await hub.close(CHANNEL, "cancelled");
  await trial.until(() => cancelled.gone);
  trial.check("broken", cancelled.notes.some((note) => note.startsWith("failed")), cancelled.notes.join());
}

export const SCENARIOS = { live, tail, cuts, ends, end, again, drain, kill, refused, expired, full, quota };
export const GENERATIONS = { generation };
