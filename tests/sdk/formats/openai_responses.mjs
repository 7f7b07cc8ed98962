// OpenAI responses, read with the `openai` client.

import OpenAI from "openai";

import { copy, told } from "../check.mjs";

export const name = "openai_responses";

export async function collect({ fetch, source, prompt }) {
  const client = new OpenAI({ baseURL: `${source}/v1`, apiKey: "none", maxRetries: 0, fetch });
  const stream = client.responses.stream({ model: "mock", input: prompt });
  const chunks = [];
  const result = { response: null, deltas: {} };
  let error = null;
  try {
    for await (const event of stream) {
      chunks.push(copy(event));
      // The last event repeats everything; what came before it must say the same.
      const part = `${event.type} ${event.item_id}`;
      if (event.delta) result.deltas[part] = (result.deltas[part] ?? "") + event.delta;
    }
    result.response = copy(await stream.finalResponse());
  } catch (cause) {
    error = told(cause);
  }
  return { result, chunks, error };
}
