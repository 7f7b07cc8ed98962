import ReconnectingEventSource from "reconnecting-eventsource";

import { listen } from "./listen.mjs";

export function follow(url, out) {
  const source = new ReconnectingEventSource(url);
  // It hands on no `open` and no `error` as events, only to these.
  source.onopen = () => out.note("open");
  source.onerror = () => out.note("error");
  listen(source, out);
}
