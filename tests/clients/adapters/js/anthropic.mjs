import Anthropic from "@anthropic-ai/sdk";

import { generation } from "./generation.mjs";

export const follow = (url, out) =>
  generation(out, async (take) => {
    const client = new Anthropic({ apiKey: "none", maxRetries: 0, fetch: () => fetch(url) });
    const request = { model: "any", max_tokens: 9, messages: [{ role: "user", content: "any" }] };
    for await (const event of await client.messages.create({ ...request, stream: true })) {
      take(event.delta?.text);
    }
  });
