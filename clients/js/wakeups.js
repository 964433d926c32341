// Hears when things may have changed: the network came, or the page became visible, was restored or thawed.
//
// A phone that returns often holds a socket that looks open and is dead; timers of hidden tabs are late. So nothing
// waits for a timer at such a moment.

const SOURCES = [
  ["self", "online"],
  ["self", "pageshow"],
  ["document", "visibilitychange"],
  ["document", "resume"],
];

/** Call `woke(name)` at each; returns a function that stops it. Outside of browsers nothing happens. */
export function listen(woke) {
  const attached = [];
  for (const [where, name] of SOURCES) {
    const target = globalThis[where];
    if (typeof target?.addEventListener !== "function") continue;
    const listener = () => isHidden() || woke(name);
    target.addEventListener(name, listener);
    attached.push(() => target.removeEventListener(name, listener));
  }
  return () => attached.splice(0).forEach((detach) => detach());
}

/** Whether nobody can see the page; false outside of browsers. */
export function isHidden() {
  return globalThis.document?.visibilityState === "hidden";
}
