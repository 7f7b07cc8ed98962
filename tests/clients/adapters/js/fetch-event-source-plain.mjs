// With the handlers of its first example: data is JSON, as the hub's own always is, and nothing is
// said about ends.
import { fetchEventSource } from "@microsoft/fetch-event-source";

import "./window.mjs";

export async function follow(url, { tell, note }) {
  await fetchEventSource(url, {
    openWhenHidden: true,
    onmessage({ event, data, id }) {
      if (!data || event.startsWith("fanfare.")) JSON.parse(data);
      tell(event, data, id);
    },
    onerror(error) {
      note(error);
    },
  }).catch(note);
  note("closed");
}
