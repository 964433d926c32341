// Waiting in tests: for something to hold, and for the next event.

const DEADLINE_MS = 20_000;

export async function until(holds, what = String(holds)) {
  const endMs = Date.now() + DEADLINE_MS;
  while (!(await holds())) {
    if (Date.now() > endMs) throw new Error(`this never came to hold: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

export const sleep = (delayMs) => new Promise((resolve) => setTimeout(resolve, delayMs));

export function next(emitter, name) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(() => reject(new Error(`no ${name} came`)), DEADLINE_MS);
    emitter.once(name, (event) => (clearTimeout(timer), resolve(event)));
  });
}
