// Ollama's chat as lines of JSON, read with the `ollama` client.

import { Ollama } from "ollama";

import { copy, told } from "../check.mjs";

export const name = "ollama";
export const lines = true;

export async function collect({ fetch, source, prompt }) {
  const client = new Ollama({ host: source, fetch });
  const chunks = [];
  const result = { text: "", thinking: "", calls: [], last: null };
  let error = null;
  try {
    const stream = await client.chat({
      model: "mock",
      messages: [{ role: "user", content: prompt }],
      stream: true,
    });
    for await (const chunk of stream) {
      chunks.push(copy(chunk));
      result.text += chunk.message.content;
      result.thinking += chunk.message.reasoning_content ?? "";
      result.calls.push(...copy(chunk.message.tool_calls ?? []));
      if (chunk.done) result.last = copy(chunk);
    }
  } catch (cause) {
    error = told(cause);
  }
  return { result, chunks, error };
}
