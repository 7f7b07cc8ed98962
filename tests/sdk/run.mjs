// Runs every format with every prompt against a hub that is already there:
//
//   node --test-reporter=spec run.mjs http://127.0.0.1:4100 [--format anthropic] [--prompt cut]
//        [--close complete] [--read QUERY] [--coalesce 40ms]
//
// What the settings mean is said in `check.mjs`.

import { after, test } from "node:test";
import { parseArgs } from "node:util";

import { check } from "./check.mjs";
import * as aiSdk from "./formats/ai_sdk.mjs";
import * as anthropic from "./formats/anthropic.mjs";
import * as gemini from "./formats/gemini.mjs";
import * as ollama from "./formats/ollama.mjs";
import * as openaiChat from "./formats/openai_chat.mjs";
import * as openaiResponses from "./formats/openai_responses.mjs";
import { PROMPTS, startSource } from "./source.mjs";

const FORMATS = [openaiChat, openaiResponses, anthropic, gemini, ollama, aiSdk];

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    format: { type: "string" },
    prompt: { type: "string" },
    close: { type: "string", default: "auto" },
    read: { type: "string" },
    coalesce: { type: "string" },
  },
});
const [hub = "http://127.0.0.1:4100"] = positionals;

const { url: source, stop } = await startSource();
after(stop);

for (const format of FORMATS.filter(({ name }) => name === (values.format ?? name))) {
  for (const prompt of PROMPTS.filter((name) => name === (values.prompt ?? name))) {
    test(`${format.name}: ${prompt}`, { timeout: 30_000 }, async (context) => {
      const { chunks, events } = await check(format, prompt, { hub, source, ...values });
      context.diagnostic(`${chunks} chunks, ${events} events`);
    });
  }
}
