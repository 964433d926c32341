// What to draw of a publication: the machine's figures if it has them, else the first number found.

/** Up to two numbers of `data`: {key, a, b, label, otherLabel, unit, isPercent}; null when there is none. */
export function seriesOf(data) {
  if (typeof data?.cpu === "number") {
    const memory = data.memory?.percent;
    const b = typeof memory === "number" ? memory : null;
    return { key: "cpu", a: data.cpu, b, label: "CPU", otherLabel: "Memory", unit: " %", isPercent: true };
  }
  const found = firstNumber(data, "", 3);
  return found && { key: found.path, a: found.value, b: null, label: found.path || "Value", unit: "" };
}

function firstNumber(data, path, depth) {
  if (typeof data === "number") return { path, value: data };
  if (depth === 0 || data === null || typeof data !== "object") return null;
  for (const [name, value] of Object.entries(data).slice(0, 64)) {
    const found = firstNumber(value, path ? `${path}.${name}` : name, depth - 1);
    if (found) return found;
  }
  return null;
}
