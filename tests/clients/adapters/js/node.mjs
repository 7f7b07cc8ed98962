// Runs one JavaScript client in Node: `node node.mjs CLIENT URL`. Each event is a line of JSON on
// standard output, as is each note. A client is a module beside this one; `page.html` runs it in a
// browser.

const [client, url] = process.argv.slice(2);
const print = (line) => process.stdout.write(`${JSON.stringify({ ...line, t: Date.now() })}\n`);
process.stdout.on("error", () => process.exit());

// Some clients do not keep the process alive while they wait.
setInterval(() => {}, 2 ** 30);

const { follow } = await import(`./${client}.mjs`);
follow(url, {
  tell: (event, data, id) => print({ event: event || "message", data, id }),
  note: (note) => print({ note: String(note) }),
});
