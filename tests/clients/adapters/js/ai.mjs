import { DefaultChatTransport } from "ai";

import { generation } from "./generation.mjs";

export const follow = (url, out) =>
  generation(out, async (take) => {
    const transport = new DefaultChatTransport({ fetch: () => fetch(url) });
    const stream = await transport.reconnectToStream({ chatId: "any" });
    for await (const chunk of stream ?? []) take(chunk.delta);
  });
