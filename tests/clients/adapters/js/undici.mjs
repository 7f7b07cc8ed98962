import { EventSource } from "undici";

import { listen } from "./listen.mjs";

export const follow = (url, out) => listen(new EventSource(url), out);
