// Numbers in words and figures.

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const tenth = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const hundredth = new Intl.NumberFormat("en", { maximumFractionDigits: 2 });

export const NONE = "–";

export const count = (number) => whole.format(number);
export const ratio = (number) => (number === null ? NONE : hundredth.format(number));

export function bytes(number) {
  if (number === null) return NONE;
  if (number < 1000) return `${whole.format(number)} B`;
  if (number < 1e6) return `${tenth.format(number / 1000)} kB`;
  return `${tenth.format(number / 1e6)} MB`;
}

export function milliseconds(number) {
  if (number === null) return NONE;
  if (Math.abs(number) < 9.95) return `${number.toFixed(1)} ms`;
  if (Math.abs(number) < 1000) return `${whole.format(number)} ms`;
  return `${hundredth.format(number / 1000)} s`;
}

export const seconds = (number) => `${hundredth.format(number / 1000)} s`;

export function figure(number, unit) {
  if (number === null) return NONE;
  return (Math.abs(number) < 100 ? tenth : whole).format(number).replace("-", "−") + unit;
}

/** Data of any kind as one short line of text. */
export function oneLine(data) {
  const text = typeof data === "string" ? data : JSON.stringify(data) ?? "";
  return text.length > 200 ? `${text.slice(0, 199)}…` : text;
}
