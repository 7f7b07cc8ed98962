// OpenAI chat completions, read with the `openai` client.

import OpenAI from "openai";

import { copy, told } from "../check.mjs";

export const name = "openai_chat";

export async function collect({ fetch, source, prompt }) {
  const client = new OpenAI({ baseURL: `${source}/v1`, apiKey: "none", maxRetries: 0, fetch });
  const stream = client.chat.completions.stream({
    model: "mock",
    messages: [{ role: "user", content: prompt }],
    stream_options: { include_usage: true },
  });
  const chunks = [];
  let result = null;
  let error = null;
  stream.on("chunk", (chunk, snapshot) => {
    chunks.push(copy(chunk));
    result = copy(snapshot);
  });
  try {
    result = copy(await stream.finalChatCompletion());
  } catch (cause) {
    error = told(cause);
  }
  // A field that this client does not know, and of which it keeps the last piece: added up here.
  const thoughts = chunks.map((chunk) => chunk.choices[0]?.delta.reasoning_content ?? "").join("");
  for (const choice of result?.choices ?? []) {
    if (thoughts) choice.message.reasoning_content = thoughts;
  }
  return { result, chunks, error };
}
