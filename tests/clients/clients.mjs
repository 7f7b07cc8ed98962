// The clients, how each is started, and in which checks each fails for a reason of its own. A check
// that fails and is not listed here is an error, and so is one that is listed and does not fail:
// this table says what is true.

import { fileURLToPath } from "node:url";

import { PROGRAM } from "./hub.mjs";

const path = (name) => fileURLToPath(new URL(name, import.meta.url));
const node = (module) => (url) => ["node", path("adapters/js/node.mjs"), module, url];
const stream = (...command) => (url) => ["node", path("adapters/js/stream.mjs"), ...command, url];
const python = (script, ...rest) => (url) =>
  [path("adapters/python/.venv/bin/python"), path(`adapters/python/${script}.py`), ...rest, url];
const niquests = (url) =>
  [path("adapters/python/.venv-niquests/bin/python"), path("adapters/python/niquests_sse.py"), url];
const rust = (client) => (url) => [path("../../target/clients/debug/fanfare-clients"), client, url];

/** For programs that print one response: it is tried live only. */
const ONCE = "prints one response, and sends no id";

const JS = [
  { name: "eventsource 4", command: node("eventsource"), quick: true },
  { name: "eventsource 2", command: node("eventsource2") },
  { name: "undici EventSource", command: node("undici") },
  { name: "eventsource-client", command: node("eventsource-client") },
  { name: "launchdarkly-eventsource (js)", command: node("launchdarkly-eventsource") },
  { name: "fetch-event-source", command: node("fetch-event-source"), quick: true },
  { name: "fetch-event-source, first example", command: node("fetch-event-source-plain") },
  { name: "event-source-plus", command: node("event-source-plus") },
  { name: "eventsource-parser", command: node("eventsource-parser"), quick: true },
  { name: "fetch-event-stream", command: node("fetch-event-stream") },
];

const PYTHON = [
  { name: "sseclient-py", command: python("sseclient_py"), quick: true },
  { name: "sseclient", command: python("sseclient_0") },
  { name: "httpx-sse", command: python("httpxsse"), quick: true },
  { name: "niquests", command: niquests },
  { name: "aiosseclient", command: python("aiosseclient_loop") },
  { name: "aiohttp-sse-client2", command: python("aiohttp_sse") },
  { name: "requests-sse", command: python("requests_sse_client") },
  { name: "launchdarkly-eventsource (py)", command: python("launchdarkly") },
  { name: "launchdarkly-eventsource (py), default", command: python("launchdarkly", "--default"), once: "gives up at the first end" },
];

const RUST = ["reqwest-eventsource", "eventsource-client", "eventsource-stream", "sse-stream", "sse-codec"].map(
  (name) => ({ name: `${name} (rust)`, command: rust(name) }),
);

const BROWSERS = ["chromium", "firefox"].flatMap((browser) => [
  { name: `${browser} EventSource`, browser, module: "native", quick: true },
  { name: `${browser} reconnecting-eventsource`, browser, module: "reconnecting-eventsource" },
  { name: `${browser} event-source-polyfill`, browser, module: "event-source-polyfill" },
  { name: `${browser} sse.js`, browser, module: "sse.js" },
  { name: `${browser} fetch-event-source`, browser, module: "fetch-event-source" },
]);

const PROGRAMS = [
  { name: "curl", command: stream("curl", "-sSN"), once: ONCE },
  { name: "curl --retry", command: stream("curl", "-sSN", "--retry", "9", "--retry-all-errors", "--retry-delay", "1"), once: ONCE },
  { name: "wget", command: stream("wget", "-q", "-O", "-"), once: ONCE },
  { name: "HTTPie", command: stream("http", "--ignore-stdin", "--stream", "--body"), once: ONCE },
  { name: "fanfare subscribe", command: (url) => ["node", path("adapters/js/subscribe.mjs"), PROGRAM, url], quick: true },
];

const PROVIDERS = [
  { name: "openai (js)", command: node("openai"), dialect: "openai" },
  { name: "anthropic (js)", command: node("anthropic"), dialect: "anthropic" },
  { name: "ai", command: node("ai"), dialect: "ai" },
  { name: "openai (py)", command: python("generation", "openai"), dialect: "openai" },
  { name: "anthropic (py)", command: python("generation", "anthropic"), dialect: "anthropic" },
];

export const CLIENTS = [...JS, ...PYTHON, ...RUST, ...BROWSERS, ...PROGRAMS, ...PROVIDERS];

const eachLine = (change) => ({ event, data }) => ({ event, data: data.split("\n").map(change).join("\n") });

/** A parser that divides text where Python's `splitlines` does: the rest of such a line is no field. */
const SPLITS = {
  reason: "takes U+0085, U+2028, VT, FF and FS for the end of a line",
  apply: ({ event, data }) => ({ event, data: data.split(/[\u0085\u2028\u2029\v\f\x1c-\x1e]/)[0] }),
};

const STRIPS = { reason: "strips the blanks at the beginning of a line", apply: eachLine((line) => line.trimStart()) };

/** What a client makes of an event that it should have left as it was: how, and why. */
export const ALTERS = {
  "event-source-plus": {
    reason: "keeps the last line of the data, without the blanks around it",
    apply: ({ event, data }) => ({ event, data: data.split("\n").at(-1).trim() }),
  },
  "fetch-event-stream": STRIPS,
  "aiohttp-sse-client2": STRIPS,
  "requests-sse": STRIPS,
  sseclient: SPLITS,
  aiosseclient: SPLITS,
};

/** One reason for several checks. */
const because = (reason, ...checks) => Object.fromEntries(checks.map((check) => [check, reason]));
const sometimes = (reason) => ({ reason, sometimes: true });

/** The checks that a client fails: `scenario.check`, and why. */
export const QUIRKS = {
  "eventsource 2": because(
    sometimes("adds the event to what it had of it when the connection broke"),
    ...["cuts.lost", "cuts.altered"],
  ),
  "event-source-plus": because(
    "comes back 2 ms after an end, whatever `retry:` says, then twice as late each time, also at 204 and 401",
    ...["ends.pace", "end.away", "end.pace", "again.pace", "refused.calm", "expired.away", "expired.pace"],
  ),
  "fetch-event-source, first example": because(
    "without a handler for ends it takes each for the last",
    ...["ends.lost", "ends.resumes", "drain.lost", "full.lost", "full.enters", "quota.lost", "quota.enters"],
  ),
  sseclient: {
    ...because("does not expect a reset", "cuts.lost", "cuts.resumes"),
    "drain.lost": sometimes("does not expect a reset"),
    ...because(
      "reads the size of the last chunk as a blank line",
      ...["ends.empty", "end.empty", "again.empty", "drain.empty", "expired.empty"],
    ),
  },
  "aiohttp-sse-client2": because(
    "does not expect a connection to break",
    ...["tail.lost", "cuts.lost", "cuts.resumes", "kill.lost", "kill.gap"],
  ),
  aiosseclient: because(
    "makes a truth value of `retry:`, and takes 204 and 401 for a stream",
    ...["end.away", "end.pace", "again.pace", "expired.away", "expired.pace"],
  ),
  "launchdarkly-eventsource (py)": {
    "cuts.resumes": sometimes("waits twice as long behind each break"),
    ...because(
      "waits as long as it was set up to, then twice as long each time, whatever `retry:` says",
      ...["end.away", "end.pace", "again.pace", "expired.away", "expired.pace"],
    ),
  },
  "eventsource-client (rust)": because(
    sometimes("takes up to half off the pause"),
    ...["ends.pace", "again.pace"],
  ),
  "fanfare subscribe": because("shows its token once more, and ends when it is refused", "expired.pace"),
  "sse-codec (rust)": because(
    "does not hand out the `retry:` of a block that is an event",
    ...["end.away", "end.pace", "expired.away", "expired.pace"],
  ),
};
