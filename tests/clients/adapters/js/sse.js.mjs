import { SSE } from "sse.js";

import { listen } from "./listen.mjs";

export const follow = (url, out) => listen(new SSE(url, { autoReconnect: true }), out);
