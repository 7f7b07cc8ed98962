// Where the streams come from: a mock LLM server (aimock, which speaks the wire format of each
// provider), behind a small server of our own that makes it a hard and repeatable source:
// - the same request always gets the same bytes, ids and times included, so that what a client got
//   directly can be compared with what it gets from a channel;
// - a body arrives in pieces that begin and end anywhere, within events, lines and characters;
// - a prompt may ask for a stream that is cut off, that the provider ends with an error, or that is
//   silent for a while before its first byte and once more half-way;
// - `/ai-sdk/chat` is a chat route of the AI SDK, whose model is this same server.
//
// Run as a program, it prints its URL and serves until it is killed or its stdin ends.

import { createServer } from "node:http";
import { setTimeout as pause } from "node:timers/promises";
import { pathToFileURL } from "node:url";

import { createOpenAI } from "@ai-sdk/openai";
import { LLMock } from "@copilotkit/aimock";
import { convertToModelMessages, jsonSchema, streamText, tool } from "ai";

const PIECE = 97; // bytes: a prime, so that no event has its borders where pieces have theirs
const PACE = 2; // milliseconds between pieces
const CHUNK = 16; // UTF-16 units of text per chunk
const AI_SDK = "/ai-sdk/chat";

// Every line fills whole chunks, so that no chunk ends within a character.
const line = (text) => `${text.padEnd(Math.ceil((text.length + 1) / CHUNK) * CHUNK - 1)}\n`;

const TEXT = [
  "Grüße aus Zürich! Ça va? 你好，世界 👩‍🚀",
  "שלום עולם, Привет, こんにちは, 안녕하세요.",
  'Quotes " and \\ and \t tabs, & <b>tags</b>',
  "data: [DONE]",
  "[DONE]",
  'event: message_stop\ndata: {"done":true}',
  "A line separator \u2028, a carriage return \r\n",
  "",
].map(line).join("").repeat(4);

const TOOL_CALLS = [
  { name: "weather", arguments: '{"city":"Zürich","days":3,"note":"☀️ or \\"rain\\""}' },
  { name: "clock", arguments: '{"zone":"Europe/Zürich"}' },
];

/** What can be asked for; the prompt is the name. */
export const PROMPTS = ["text", "tools", "surrogates", "error", "cut", "silence"];

/** Longer than three heartbeats of the hub under test. */
const SILENCE = 800; // milliseconds

function fixtures(mock) {
  mock.onMessage("text", { content: TEXT, reasoning: "Let me think …\n\nTwo lines. 🤔" });
  mock.onMessage("tools", { content: "I look it up. ", toolCalls: TOOL_CALLS });
  // Chunks of three units end within each of these characters: JSON then has half a pair, escaped.
  mock.onMessage("surrogates", { content: "🦀🦀🦀🦀🦀🦀🦀🦀" }, { chunkSize: 3 });
  mock.onMessage("error", { content: TEXT });
  mock.onMessage("cut", { content: TEXT });
  mock.onMessage("silence", { content: TEXT });
}

const MESSAGE = "The server had an error";
const event = (data, type) => `${type ? `event: ${type}\n` : ""}data: ${JSON.stringify(data)}\n\n`;

/** How each provider says within a stream that it failed, by a part of the path. */
const FAILURES = {
  "/chat/completions": event({ error: { message: MESSAGE, type: "server_error", param: null, code: null } }),
  "/responses": event({ type: "error", code: "server_error", message: MESSAGE, param: null }, "error"),
  "/messages": event({ type: "error", error: { type: "overloaded_error", message: MESSAGE } }, "error"),
  ":streamGenerateContent": event({ error: { code: 503, message: MESSAGE, status: "UNAVAILABLE" } }),
  "/api/chat": `${JSON.stringify({ error: MESSAGE })}\n`,
};

/** The first half of the events of a body, and then the provider's error. */
function failHalfWay(path, body) {
  const [, failure] = Object.entries(FAILURES).find(([part]) => path.includes(part));
  const separator = failure.endsWith("\n\n") ? "\n\n" : "\n";
  const events = body.toString().split(separator);
  const half = events.slice(0, events.length / 2);
  return Buffer.from(half.join(separator) + separator + failure);
}

/** Without its end, and not ended as HTTP wants it, if the prompt asks for that. */
function cut(prompt, recording) {
  if (!prompt.includes('"cut"')) return recording;
  return { ...recording, body: recording.body.subarray(0, recording.body.length * 0.4), broken: true };
}

async function record(response) {
  const { status, headers } = response;
  return { status, type: headers.get("content-type"), body: Buffer.from(await response.arrayBuffer()) };
}

const CITY = jsonSchema({ type: "object", properties: { city: { type: "string" } } });
const ZONE = jsonSchema({ type: "object", properties: { zone: { type: "string" } } });

/** The chat route of an application that is built with the AI SDK. */
async function aiSdkChat(body, baseURL) {
  // What is cut is this route's answer, not the model's.
  const { messages } = JSON.parse(body.replace('"cut"', '"text"'));
  const provider = createOpenAI({ baseURL, apiKey: "none" });
  const result = streamText({
    model: provider.responses("mock"),
    messages: await convertToModelMessages(messages),
    tools: { weather: tool({ inputSchema: CITY }), clock: tool({ inputSchema: ZONE }) },
    maxRetries: 0,
    onError: () => {}, // it is in the stream
  });
  return result.toUIMessageStreamResponse({
    sendReasoning: true,
    generateMessageId: () => "message-1",
    onError: (error) => error.message ?? String(error),
  });
}

/** Starts the source on a free port. */
export async function startSource() {
  const mock = new LLMock({ port: 0, host: "127.0.0.1", chunkSize: CHUNK });
  fixtures(mock);
  await mock.start();

  const recordings = new Map();
  let url;

  /** What to answer to a request: made once, for everybody who asks the same. */
  async function prepare(path, body) {
    if (path === AI_SDK) return cut(body, await record(await aiSdkChat(body, `${url}/v1`)));
    const headers = { "content-type": "application/json" };
    const recording = await record(await fetch(mock.url + path, { method: "POST", headers, body }));
    if (body.includes('"error"')) recording.body = failHalfWay(path, recording.body);
    return cut(body, recording);
  }

  const server = createServer(async (request, response) => {
    let body = "";
    for await (const piece of request.setEncoding("utf8")) body += piece;
    const key = `${request.url}\n${body}`;
    if (!recordings.has(key)) recordings.set(key, prepare(request.url, body));
    const recording = await recordings.get(key);
    response.writeHead(recording.status, { "content-type": recording.type });
    response.flushHeaders();
    const half = PIECE * Math.floor(recording.body.length / PIECE / 2);
    for (let at = 0; at < recording.body.length; at += PIECE) {
      if (body.includes('"silence"') && (at === 0 || at === half)) await pause(SILENCE);
      response.write(recording.body.subarray(at, at + PIECE));
      await pause(PACE);
    }
    if (recording.broken) response.destroy();
    else response.end();
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  url = `http://127.0.0.1:${server.address().port}`;

  async function stop() {
    server.close();
    server.closeAllConnections();
    await mock.stop();
  }
  return { url, stop };
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) {
  const { url } = await startSource();
  console.log(url);
  process.stdin.resume().on("end", () => process.exit());
}
