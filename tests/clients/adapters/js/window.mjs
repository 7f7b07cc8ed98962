// What fetch-event-source uses of a page, for Node.
globalThis.window ??= globalThis;
globalThis.document ??= { addEventListener() {}, removeEventListener() {} };
