// Deciding where others disagree: a digit chooses, Enter decides. What is begun is kept while one signs in again.

import { typeset } from "./texts.js";
import "./pictures.js";

const form = document.getElementById("case");
const KEPT = "prefloop case";
const kept = JSON.parse(sessionStorage.getItem(KEPT) || "{}");

if (kept.path === location.pathname) {
  form.elements.reason.value = kept.reason;
  if (kept.choice) form.elements.choice.value = kept.choice;
} else sessionStorage.removeItem(KEPT);

form.addEventListener("input", () => {
  sessionStorage.setItem(KEPT, JSON.stringify({ path: location.pathname, reason: form.elements.reason.value, choice: form.elements.choice.value }));
});

const written = document.getElementById("written");
if (written) written.addEventListener("click", () => {
  const on = written.getAttribute("aria-pressed") !== "true";
  written.setAttribute("aria-pressed", String(on));
  for (const node of document.querySelectorAll("[data-written]")) {
    node.hidden = !on;
    node.previousElementSibling.hidden = on;
  }
});

for (const node of document.querySelectorAll(".text.markdown")) typeset(node);

document.addEventListener("keydown", (event) => {
  if (event.target.matches("textarea, select") || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (written && event.key === written.querySelector("kbd").textContent) { event.preventDefault(); written.click(); return; }
  if (event.target.matches("a, button")) return;
  const option = form.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (option) {
    event.preventDefault();
    option.click();
    option.focus();
  } else if (event.key === "Enter") {
    event.preventDefault();
    form.requestSubmit();
  }
});
