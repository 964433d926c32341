// Exact sizes of finished bodies, from Resource Timing.
//
// A body is first counted as it was read; when the browser reports how many bytes really came (fewer if
// compressed, none if from a cache) the difference is handed over.

const MAX_EXPECTED = 64;
const expected = new Map(); // URL -> [{bytes, correct}]

/** Call `correct(difference)` when the browser tells the size of the answer from `url`. */
export function expectSize(url, bytes, correct) {
  const list = expected.get(url) ?? [];
  list.push({ bytes, correct });
  expected.set(url, list);
  if (expected.size > MAX_EXPECTED) expected.delete(expected.keys().next().value);
}

function settle(entry) {
  const list = expected.get(entry.name);
  const first = list?.shift();
  if (!first) return;
  if (list.length === 0) expected.delete(entry.name);
  const came = entry.transferSize === 0 ? 0 : entry.encodedBodySize;
  if (came !== first.bytes) first.correct(came - first.bytes);
}

if (globalThis.PerformanceObserver?.supportedEntryTypes?.includes("resource")) {
  new PerformanceObserver((list) => {
    list.getEntries().forEach(settle);
    performance.clearResourceTimings(); // the browser's own list is bounded; ours must not depend on it
  }).observe({ type: "resource" });
}
