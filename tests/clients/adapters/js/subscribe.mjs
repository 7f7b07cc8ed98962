// `fanfare subscribe`: `node subscribe.mjs FANFARE URL`. It is given a channel, and no URL.

import { spawn } from "node:child_process";
import { createInterface } from "node:readline";

const print = (line) => process.stdout.write(`${JSON.stringify({ ...line, t: Date.now() })}\n`);
const [program, text] = process.argv.slice(2);
const url = new URL(text);
const channel = url.pathname.replace("/v1/channels/", "");
const from = url.searchParams.get("from") ?? "tail";
const token = url.searchParams.get("access_token");
const settings = ["--json", "--url", url.origin, "--from", from, ...(token ? ["--token", token] : [])];
const child = spawn(program, ["subscribe", channel, ...settings], { stdio: ["ignore", "pipe", "pipe"] });
createInterface(child.stdout).on("line", (line) => {
  const { event, data, id } = JSON.parse(line);
  print({ event: event ?? "message", data: typeof data === "string" ? data : JSON.stringify(data), id });
});
createInterface(child.stderr).on("line", (note) => print({ note }));
child.on("close", (code) => print({ note: `exit code ${code}` }));
