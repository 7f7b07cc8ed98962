// The AI SDK's UI message stream, read as `useChat` reads it: with its transport and
// `readUIMessageStream`.

import { DefaultChatTransport, readUIMessageStream } from "ai";

import { copy, told } from "../check.mjs";

export const name = "ai_sdk";

export async function collect({ fetch, source, prompt }) {
  const transport = new DefaultChatTransport({ api: `${source}/ai-sdk/chat`, fetch });
  return read(
    await transport.sendMessages({
      chatId: "chat-1",
      trigger: "submit-message",
      messages: [{ id: "1", role: "user", parts: [{ type: "text", text: prompt }] }],
    }),
  );
}

/** The same, as a page does after a reload: a plain GET, with no `fetch` of our own. */
export async function resume(url) {
  const transport = new DefaultChatTransport({ prepareReconnectToStreamRequest: () => ({ api: url }) });
  return read(await transport.reconnectToStream({ chatId: "chat-1" }));
}

async function read(stream) {
  const chunks = [];
  let result = null;
  let error = null;
  const onError = (cause) => (error = told(cause));
  try {
    for await (const message of readUIMessageStream({ stream, onError })) {
      chunks.push(copy(message));
      result = copy(message);
    }
  } catch (cause) {
    onError(cause);
  }
  return { result, chunks, error };
}
