// Chromium and Firefox, one process each for all their clients: a page that keeps a frame for each
// client, and a server that serves the pages and takes what they tell.

import { spawn } from "node:child_process";
import { createServer } from "node:http";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { Follower } from "./follower.mjs";

const ROOT = fileURLToPath(new URL(".", import.meta.url));
const TYPES = { ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript" };

const COMMANDS = {
  chromium: (profile, url) => [
    "chromium",
    ...["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"],
    ...["--disable-background-networking", "--disable-sync", "--disable-component-update"],
    ...["--disable-dev-shm-usage", "--disable-background-timer-throttling"],
    ...["--disable-renderer-backgrounding", `--user-data-dir=${profile}`, url],
  ],
  firefox: (profile, url) => ["firefox-esr", "--headless", "--no-remote", "--profile", profile, url],
};

/** Firefox without what a closed network would refuse it, and without limits on timers. */
const PREFERENCES = [
  ["app.normandy.enabled", false],
  ["app.update.enabled", false],
  ["browser.shell.checkDefaultBrowser", false],
  ["datareporting.policy.dataSubmissionEnabled", false],
  ["dom.min_background_timeout_value", 4],
  ["network.captive-portal-service.enabled", false],
  ["network.connectivity-service.enabled", false],
  ["toolkit.telemetry.enabled", false],
];

export class Browsers {
  #processes = new Map();
  #followers = new Map();
  #orders = {};

  async start() {
    this.server = createServer((request, response) => {
      this.#answer(request, response).catch(() => response.writeHead(404).end());
    });
    await new Promise((resolve) => this.server.listen(0, "127.0.0.1", resolve));
    this.url = `http://127.0.0.1:${this.server.address().port}`;
  }

  /** Lets a browser follow a URL with a client, and starts it if it does not run. */
  async follow(browser, client, url) {
    if (!this.#processes.has(browser)) this.#processes.set(browser, this.#launch(browser));
    await this.#processes.get(browser);
    const id = `${this.#followers.size}`;
    const follower = new Follower();
    this.#followers.set(id, follower);
    const query = new URLSearchParams({ id, client, url });
    const orders = this.#orders[browser];
    orders.pages[id] = `/adapters/js/page.html?${query}`;
    orders.change();
    follower.stop = async () => {
      delete orders.pages[id];
      orders.change();
    };
    return follower;
  }

  async stop() {
    for (const starting of this.#processes.values()) {
      const { child, profile } = await starting;
      const ended = new Promise((resolve) => child.on("close", resolve));
      process.kill(-child.pid, "SIGKILL");
      await ended;
      await rm(profile, { recursive: true, force: true, maxRetries: 5 });
    }
    this.server?.closeAllConnections();
    this.server?.close();
  }

  async #launch(browser) {
    const profile = await mkdtemp(join(tmpdir(), `fanfare-${browser}-`));
    const lines = PREFERENCES.map(([name, value]) => `user_pref("${name}", ${value});\n`);
    await writeFile(join(profile, "user.js"), lines.join(""));
    const orders = { version: 0, pages: {}, waiting: [] };
    orders.change = () => {
      orders.version++;
      for (const wake of orders.waiting.splice(0)) wake();
    };
    this.#orders[browser] = orders;
    const page = `${this.url}/adapters/js/control.html?browser=${browser}`;
    const [program, ...rest] = COMMANDS[browser](profile, page);
    const { CHARSET: _, ...env } = process.env; // GLib would read it
    const child = spawn(program, rest, { stdio: "ignore", detached: true, env });
    await new Promise((resolve, reject) => {
      child.on("error", reject);
      child.on("close", () => reject(new Error(`${program} ended at once`)));
      orders.waiting.push(resolve);
      orders.asked = resolve;
    });
    return { child, profile };
  }

  async #answer(request, response) {
    const { pathname, searchParams } = new URL(request.url, this.url);
    const [, kind, name] = pathname.split("/");
    if (kind === "orders") {
      const orders = this.#orders[name];
      orders.asked();
      const seen = Number(searchParams.get("seen"));
      if (orders.version === seen) await new Promise((resolve) => orders.waiting.push(resolve));
      const { version, pages } = orders;
      response.writeHead(200, { "content-type": "application/json", "cache-control": "no-store" });
      return response.end(JSON.stringify({ version, pages }));
    }
    if (kind === "told") {
      let body = "";
      for await (const text of request.setEncoding("utf8")) body += text;
      for (const line of body.split("\n").filter(Boolean)) this.#followers.get(name).take(JSON.parse(line));
      return response.writeHead(204).end();
    }
    // Modules may be named without their ending.
    const path = extname(pathname) ? pathname : `${pathname}.js`;
    if (path.includes("..")) throw new Error("not here");
    const body = await readFile(join(ROOT, path));
    response.writeHead(200, { "content-type": TYPES[extname(path)] ?? "text/plain" });
    response.end(body);
  }
}
