import { createParser } from "eventsource-parser";

import { loop } from "./loop.mjs";

export const follow = (url, out) =>
  loop(url, out, async (response, take) => {
    const parser = createParser({ onEvent: take, onRetry: (retry) => take({ retry }) });
    for await (const text of response.body.pipeThrough(new TextDecoderStream())) parser.feed(text);
  });
