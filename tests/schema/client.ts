// A program on the types that `openapi-typescript` makes of the document. It is type-checked only.

import type { components, paths } from "./openapi";

type Schemas = components["schemas"];
type Publish = paths["/v1/channels/{name}"]["post"];

const query: NonNullable<Publish["parameters"]["query"]> = { close: "auto", format: "openai-chat" };
// @ts-expect-error: there is no such state to close a channel in
const wrong: NonNullable<Publish["parameters"]["query"]> = { close: "completed" };

export function firstId(receipt: Publish["responses"][200]["content"]["application/json"]): string | null {
  return receipt.first_id;
}

/** Each kind of event of a stream of one channel, told apart by its type. */
export function describe(event: Schemas["StreamEvent"]): string {
  switch (event.event) {
    case "fanfare.open": return state<Schemas["Opening"]>(event.data).state;
    case "fanfare.snapshot": return state<Schemas["Snapshot"]>(event.data).text;
    case "fanfare.gap": return state<Schemas["Gap"]>(event.data).reason;
    case "fanfare.end": return state<Schemas["End"]>(event.data).state;
    case "fanfare.unauthenticated": return state<Schemas["Unauthenticated"]>(event.data).reason;
    case "fanfare.busy": return state<Schemas["Busy"]>(event.data).code;
    default: return event.data;
  }
}

export function signal(event: Schemas["SignalEvent"]): number | string | null {
  switch (event.event) {
    case "viewers": return state<Schemas["Viewers"]>(event.data).viewers;
    case "stop": return state<Schemas["Stop"]>(event.data).reason;
    case "end": return state<Schemas["End"]>(event.data).reason;
    default: return event.data;
  }
}

function state<T>(data: string): T {
  return JSON.parse(data) as T;
}

export { query, wrong };
