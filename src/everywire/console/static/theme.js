// Dark, light or as the system says. A classic script in the head, so that the choice stands before anything is
// painted; the button is set up when the page is there.
(() => {
  const CHOICES = ["auto", "light", "dark"];
  const read = () => {
    try {
      const kept = localStorage.getItem("everywire-theme");
      return CHOICES.includes(kept) ? kept : "auto";
    } catch {
      return "auto"; // storage may be forbidden
    }
  };
  const apply = (choice) => {
    document.documentElement.dataset.theme = choice;
    dispatchEvent(new Event("themechange"));
  };
  apply(read());
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    const label = () => {
      const choice = document.documentElement.dataset.theme;
      button.textContent = `Theme: ${choice}`;
    };
    label();
    button.addEventListener("click", () => {
      const next = CHOICES[(CHOICES.indexOf(document.documentElement.dataset.theme) + 1) % CHOICES.length];
      try {
        localStorage.setItem("everywire-theme", next);
      } catch {
        // The choice then lasts as long as the page.
      }
      apply(next);
      label();
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () =>
    dispatchEvent(new Event("themechange")),
  );
})();
