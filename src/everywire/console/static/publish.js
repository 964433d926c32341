// Send a message of one's own to the channel, by POST, and say what became of it.

import { milliseconds } from "./format.js";
import { request } from "./transports/answers.js";

export function setUpPublishing(form, course) {
  const output = form.querySelector("output");
  const field = form.elements.data;
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const began = performance.now();
    try {
      const response = await request(course.url(), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: asJson(field.value),
      });
      const { offset } = await response.json();
      const took = milliseconds(performance.now() - began);
      output.textContent = `Published as number ${offset}; the answer took ${took}.`;
      field.select();
    } catch (error) {
      output.textContent = error.message;
    }
  });
}

/** JSON as it stands; anything else as a JSON string. */
function asJson(text) {
  try {
    JSON.parse(text);
    return text;
  } catch {
    return JSON.stringify(text);
  }
}
