// A hub as a process, and a publisher of known events.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { randomUUID } from "node:crypto";

export const PROGRAM = process.env.FANFARE ?? new URL("../../target/debug/fanfare", import.meta.url).pathname;

export class Hub {
  /** Settings as environment variables without `FANFARE_`; a `file` of settings; a `key` to publish with. */
  static async start(settings = {}, { file, key, env } = {}) {
    const hub = new Hub();
    hub.folder = await mkdtemp(join(tmpdir(), "fanfare-clients-"));
    const config = join(hub.folder, "fanfare.toml");
    await writeFile(config, file ?? "");
    const variables = Object.entries({ CORS__ALLOW_ORIGINS: "*", LOG__FORMAT: "json", ...settings });
    hub.env = { ...process.env, ...env };
    for (const [name, value] of variables) {
      hub.env[`FANFARE_${name}`] = value.replace("FOLDER", hub.folder);
    }
    hub.arguments = ["serve", "--config", config, "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
    hub.key = key;
    await hub.run();
    return hub;
  }

  /** Starts it, or starts it again; it may have another port then. */
  async run() {
    const child = spawn(PROGRAM, this.arguments, { env: this.env, stdio: ["ignore", "ignore", "pipe"] });
    this.child = child;
    this.ended = new Promise((resolve) => child.on("close", resolve));
    const said = [];
    await new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", () => reject(new Error(`the hub ended at once: ${said.join("\n")}`)));
      createInterface(child.stderr).on("line", (line) => {
        if (said.length < 20) said.push(line);
        const { message, addr } = line.startsWith("{") ? JSON.parse(line) : {};
        if (message !== "listening") return;
        this.url = new URL(`http://${addr}`);
        resolve();
      });
    });
  }

  signal(name) {
    this.child.kill(name);
    return this.ended;
  }

  async stop() {
    await this.signal("SIGKILL");
    await rm(this.folder, { recursive: true, force: true });
  }

  request(method, path, body, headers = {}) {
    const authorization = this.key ? { authorization: `Bearer ${this.key}` } : {};
    const signal = AbortSignal.timeout(10_000);
    return fetch(new URL(path, this.url), { method, body, headers: { ...authorization, ...headers }, signal });
  }

  /**
   * Publishes `{ event, data }`, and resolves to its id. It goes on until there is a receipt: the hub
   * may be away for a while.
   */
  async publish(channel, { event, data }) {
    const query = event === "message" ? "" : `?event=${encodeURIComponent(event)}`;
    const headers = { "idempotency-key": randomUUID(), "content-type": "application/octet-stream" };
    for (let failure, attempt = 0; ; attempt++) {
      try {
        const answer = await this.request("POST", `/v1/channels/${channel}${query}`, data, headers);
        if (answer.ok) return (await answer.json()).last_id;
        failure = `${answer.status} ${await answer.text()}`;
      } catch (error) {
        failure = error;
      }
      if (attempt === 300) throw new Error(`publishing failed: ${failure}`);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
  }

  async close(channel, state = "complete") {
    const answer = await this.request("POST", `/v1/channels/${channel}?close=${state}`);
    if (!answer.ok) throw new Error(`closing failed: ${answer.status} ${await answer.text()}`);
  }
}
