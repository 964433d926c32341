// A canvas that is as sharp as the screen, and colours from the style sheet.

/** Make the bitmap fit the element; returns {context, width, height} in CSS pixels, or null when hidden. */
export function surface(canvas) {
  const { clientWidth: width, clientHeight: height } = canvas;
  if (width === 0 || height === 0) return null;
  const scale = Math.min(3, globalThis.devicePixelRatio || 1);
  const [wide, high] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, width, height);
  return { context, width, height };
}

/** The custom properties that the canvases use, read anew when the theme changes. */
export function palette(element) {
  const style = getComputedStyle(element);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    wire: colour("wire"), text: colour("text"), muted: colour("muted"), line: colour("line"),
    second: colour("second"), alarm: colour("alarm"), panel: colour("panel"),
    font: `11px ${style.getPropertyValue("font-family")}`,
  };
}

const LOW_MS = 1;
const HIGH_MS = 10_000;

/** Where a latency stands between 0 and 1 on the logarithmic scale from 1 ms to 10 s. */
export function latencyPlace(ms) {
  const place = Math.log(Math.max(LOW_MS, ms) / LOW_MS) / Math.log(HIGH_MS / LOW_MS);
  return Math.min(1, place);
}
