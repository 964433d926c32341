// What is worth saying aloud: changes of a wire's state, gathered for a moment so that five are one sentence.

const GATHER_MS = 1500;

export class Announcer {
  #element;
  #names = new Map(); // state -> set of titles
  #timer = null;

  constructor(element) {
    this.#element = element;
  }

  tell(reader) {
    if (reader.state === "connecting") return;
    const { title } = reader.constructor;
    for (const titles of this.#names.values()) titles.delete(title);
    this.#names.set(reader.state, (this.#names.get(reader.state) ?? new Set()).add(title));
    this.#timer ??= setTimeout(() => this.#say(), GATHER_MS);
  }

  #say() {
    this.#timer = null;
    const words = { live: "live", waiting: "trying to connect again", paused: "paused", stopped: "stopped" };
    const parts = [...this.#names]
      .filter(([, titles]) => titles.size > 0)
      .map(([state, titles]) => `${[...titles].join(", ")}: ${words[state]}.`);
    this.#names.clear();
    this.#element.textContent = parts.join(" ");
  }
}
