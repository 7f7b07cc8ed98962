import { EventSourcePlus } from "event-source-plus";

export function follow(url, { tell, note }) {
  new EventSourcePlus(url).listen({
    onMessage: ({ event, data, id }) => tell(event, data, id),
    onResponse: () => note("open"),
    onRequestError: ({ error }) => note(error),
    onResponseError: ({ error, response }) => note(error ?? `status ${response.status}`),
  });
}
