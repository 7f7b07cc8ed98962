// For the clients of providers: each piece of text is an event, and the end or the error a note.

export async function generation({ tell, note }, read) {
  try {
    await read((text) => text && tell("text", text));
    note("whole");
  } catch (error) {
    note(`failed: ${error.message ?? error}`);
  }
}
