// Tries clients against a hub: see README.md.

import { parseArgs } from "node:util";

import { Browsers } from "./browsers.mjs";
import { ALTERS, CLIENTS, QUIRKS } from "./clients.mjs";
import { follow } from "./follower.mjs";
import { GENERATIONS, SCENARIOS } from "./scenarios.mjs";
import { Trial } from "./trial.mjs";

const { values: options } = parseArgs({
  options: {
    all: { type: "boolean", default: false },
    client: { type: "string", multiple: true },
    scenario: { type: "string", multiple: true },
    jobs: { type: "string", default: "16" },
    seed: { type: "string", default: "1" },
    table: { type: "boolean", default: false },
    verbose: { type: "boolean", default: false },
  },
});

const chosen = (name, wanted) => !wanted || wanted.some((text) => name.includes(text));
const clients = CLIENTS.filter(({ name, quick }) => (options.client ? chosen(name, options.client) : options.all || quick));

/** Each client with each scenario; the slow ones begin. */
const trials = [];
for (const [scenario, run] of Object.entries({ ...SCENARIOS, ...GENERATIONS })) {
  if (options.scenario && !options.scenario.includes(scenario)) continue;
  for (const client of clients) {
    const applies = client.dialect ? scenario in GENERATIONS : scenario in SCENARIOS;
    if (applies) trials.push({ client, scenario, run });
  }
}

const browsers = new Browsers();
await browsers.start();

async function attempt({ client, scenario, run }) {
  if (client.once && scenario !== "live") return { client, scenario, reason: client.once, checks: [] };
  const quirk = (check) => QUIRKS[client.name]?.[`${scenario}.${check}`];
  const start = async (url) =>
    client.browser ? browsers.follow(client.browser, client.module, url) : follow(client.command(url));
  const trial = new Trial({ ...client, alters: ALTERS[client.name]?.apply }, scenario, {
    start,
    quirk,
    seed: Number(options.seed),
  });
  const began = Date.now();
  try {
    await run(trial);
  } catch (error) {
    trial.check("runs", false, error.stack);
  }
  if (options.verbose) {
    for (const line of trial.follower?.lines ?? []) console.log(JSON.stringify(line).slice(0, 200));
    for (const { head, tail, response, ...request } of trial.relay?.requests ?? []) console.log(JSON.stringify(request));
  }
  await trial.stop();
  const checks = trial.checks.map((check) => ({ ...check, quirk: quirk(check.name) }));
  return { client, scenario, checks, seconds: (Date.now() - began) / 1000 };
}

const isSound = ({ holds, quirk }) => (quirk && !quirk.sometimes ? !holds : holds || quirk);

const results = [];
const queue = [...trials];
const began = Date.now();
await Promise.all(
  Array.from({ length: Number(options.jobs) }, async () => {
    for (let next; (next = queue.shift()); ) {
      const result = await attempt(next);
      results.push(result);
      if (result.reason) continue;
      const bad = result.checks.filter((check) => !isSound(check));
      const word = bad.length ? "FAILED" : "ok";
      console.log(`${word.padEnd(6)} ${result.scenario.padEnd(8)} ${result.client.name} (${result.seconds.toFixed(1)} s)`);
      for (const { name, holds, detail } of bad) {
        const why = holds ? "it does not fail, as the table says" : detail;
        console.log(`         ${result.scenario}.${name}: ${why}`);
      }
    }
  }),
);
await browsers.stop();

/** The results as the table of README.md. */
function table() {
  const names = Object.keys(SCENARIOS);
  const cell = (client, scenario) => {
    const result = results.find((one) => one.client === client && one.scenario === scenario);
    if (!result) return "";
    if (result.reason) return "–";
    if (result.checks.some((check) => !isSound(check))) return "**fails**";
    const quirks = result.checks.filter(({ holds }) => !holds).map(({ name }) => name);
    return quirks.length ? quirks.join(", ") : "ok";
  };
  const rows = clients.filter(({ dialect }) => !dialect).map((client) => {
    return [client.name, ...names.map((name) => cell(client, name))];
  });
  const lines = [["client", ...names], ["client", ...names].map(() => "---"), ...rows];
  return lines.map((line) => `| ${line.join(" | ")} |`).join("\n");
}

if (options.table) console.log(table());
const failed = results.filter(({ checks }) => checks.some((check) => !isSound(check)));
const seconds = Math.round((Date.now() - began) / 1000);
console.log(`${results.length} trials of ${clients.length} clients in ${seconds} s, ${failed.length} failed`);
process.exit(failed.length > 0 || results.length === 0 ? 1 : 0);
