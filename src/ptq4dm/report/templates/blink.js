// Blink comparator: the float sheet is laid over the INT8 sheet while the pointer rests on it, or in turns on a click.
// The page is complete without it.
(() => {
  const figure = document.getElementById("blink");
  if (!figure) return;
  const stack = figure.querySelector(".stack");
  const button = figure.querySelector("button");
  const label = figure.querySelector("figcaption b");
  const float = document.querySelector(".sheets img").cloneNode();
  float.alt = "";
  stack.append(float);
  let timer = 0;
  const show = (on) => {
    figure.classList.toggle("blinking", on);
    label.textContent = on ? "Float" : "INT8";
  };
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  button.hidden = false;
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    clearInterval(timer);
    show(on);
    if (on && !still) timer = setInterval(() => show(!figure.classList.contains("blinking")), 700);
  });
  const resting = () => button.getAttribute("aria-pressed") !== "true";
  stack.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && resting() && show(true));
  stack.addEventListener("pointerleave", () => resting() && show(false));
})();
