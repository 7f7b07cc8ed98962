import { events } from "fetch-event-stream";

import { loop } from "./loop.mjs";

export const follow = (url, out) =>
  loop(url, out, async (response, take) => {
    for await (const event of events(response)) take(event);
  });
