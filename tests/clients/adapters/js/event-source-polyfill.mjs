import "event-source-polyfill";

import { listen } from "./listen.mjs";

export const follow = (url, out) => listen(new globalThis.EventSourcePolyfill(url), out);
