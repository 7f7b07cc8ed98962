// What all clients with the shape of `EventSource` are listened to with.

const TYPES = [
  "message",
  "token",
  "fanfare.open",
  "fanfare.busy",
  "fanfare.gap",
  "fanfare.end",
  "fanfare.unauthenticated",
];

export function listen(source, { tell, note }) {
  for (const type of TYPES) {
    source.addEventListener(type, (event) => tell(event.type, event.data, event.lastEventId || event.id));
  }
  source.addEventListener("open", () => note("open"));
  source.addEventListener("error", (event) => note(`error ${event?.message ?? event?.status ?? ""}`));
  return source;
}
