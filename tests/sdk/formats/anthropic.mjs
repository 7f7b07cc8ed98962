// Anthropic messages, read with the `@anthropic-ai/sdk` client.

import Anthropic from "@anthropic-ai/sdk";

import { copy, told } from "../check.mjs";

export const name = "anthropic";

export async function collect({ fetch, source, prompt }) {
  const client = new Anthropic({ baseURL: source, apiKey: "none", maxRetries: 0, fetch });
  const stream = client.messages.stream({
    model: "mock",
    max_tokens: 4096,
    messages: [{ role: "user", content: prompt }],
  });
  const chunks = [];
  let result = null;
  let error = null;
  stream.on("streamEvent", (event, snapshot) => {
    chunks.push(copy(event));
    result = copy(snapshot);
  });
  try {
    result = copy(await stream.finalMessage());
  } catch (cause) {
    error = told(cause);
  }
  return { result, chunks, error };
}
