import OpenAI from "openai";

import { generation } from "./generation.mjs";

export const follow = (url, out) =>
  generation(out, async (take) => {
    const client = new OpenAI({ apiKey: "none", maxRetries: 0, fetch: () => fetch(url) });
    const request = { model: "any", messages: [{ role: "user", content: "any" }], stream: true };
    for await (const chunk of await client.chat.completions.create(request)) {
      take(chunk.choices[0]?.delta?.content);
    }
  });
