// Gemini's `streamGenerateContent?alt=sse`, read with the `@google/genai` client.

import { GoogleGenAI } from "@google/genai";

import { copy, told } from "../check.mjs";

export const name = "gemini";

export async function collect({ fetch, source, prompt }) {
  const client = new GoogleGenAI({ apiKey: "none", httpOptions: { baseUrl: source, fetch } });
  const chunks = [];
  const result = { thought: "", text: "", calls: [], finish: null, usage: null };
  let error = null;
  try {
    const stream = await client.models.generateContentStream({ model: "mock", contents: prompt });
    for await (const { sdkHttpResponse, ...chunk } of stream) {
      chunks.push(copy(chunk));
      fold(result, copy(chunk));
    }
  } catch (cause) {
    error = told(cause);
  }
  return { result, chunks, error };
}

/** This client hands out chunks and leaves it to the application to put them together. */
function fold(result, { candidates = [], usageMetadata }) {
  for (const part of candidates[0]?.content?.parts ?? []) {
    if (part.functionCall) result.calls.push(part.functionCall);
    else result[part.thought ? "thought" : "text"] += part.text ?? "";
  }
  result.finish = candidates[0]?.finishReason ?? result.finish;
  result.usage = usageMetadata ?? result.usage;
}
