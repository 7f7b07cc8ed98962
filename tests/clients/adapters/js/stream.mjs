// For programs that print what they get: `node stream.mjs PROGRAM ARGUMENT…`. Their output is read as
// the event stream that it should be.

import { spawn } from "node:child_process";

import { createParser } from "eventsource-parser";

const print = (line) => process.stdout.write(`${JSON.stringify({ ...line, t: Date.now() })}\n`);
const [program, ...rest] = process.argv.slice(2);
const child = spawn(program, rest, { stdio: ["ignore", "pipe", "inherit"] });
const onEvent = ({ event, data, id }) => print({ event: event ?? "message", data, id });
const parser = createParser({ onEvent });
child.stdout.setEncoding("utf8").on("data", (text) => parser.feed(text));
child.on("close", (code) => print({ note: `exit code ${code}` }));
