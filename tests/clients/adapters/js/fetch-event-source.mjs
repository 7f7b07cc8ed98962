// With the handlers of its second example: a clean end is an error, so that it comes back.
import { fetchEventSource } from "@microsoft/fetch-event-source";

import "./window.mjs";

export async function follow(url, { tell, note }) {
  await fetchEventSource(url, {
    openWhenHidden: true,
    onmessage: ({ event, data, id }) => tell(event, data, id),
    onclose() {
      throw new Error("the stream has ended");
    },
    onerror(error) {
      note(error);
    },
  }).catch(note);
  note("closed");
}
