// For libraries that only parse: a request, its events, and the next request behind the last id.

import { setTimeout as pause } from "node:timers/promises";

/**
 * `read(response, take)` lets the library read the body and calls `take({ event, data, id, retry })`
 * with what it makes of each block.
 */
export async function loop(url, { tell, note }, read) {
  let [id, retry] = ["", 1000];
  for (;;) {
    try {
      const headers = { accept: "text/event-stream", ...(id && { "last-event-id": id }) };
      const response = await fetch(url, { headers });
      if (response.status === 204) break;
      if (!response.ok) throw new Error(`status ${response.status}`);
      note("open");
      await read(response, (block) => {
        if (block.retry !== undefined) retry = block.retry;
        if (block.id !== undefined) id = block.id;
        if (block.data !== undefined) tell(block.event, block.data, block.id);
      });
      note("end");
    } catch (error) {
      note(error.cause ?? error);
    }
    await pause(retry);
  }
  note("closed");
}
