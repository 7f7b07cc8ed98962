import { createEventSource } from "eventsource-client";

export function follow(url, { tell, note }) {
  createEventSource({
    url,
    onMessage: ({ event, data, id }) => tell(event, data, id),
    onConnect: () => note("open"),
    onDisconnect: () => note("end"),
  });
}
