// Deciding where others disagree: a digit chooses, Enter decides.

const form = document.getElementById("case");

document.addEventListener("keydown", (event) => {
  if (event.target.matches("textarea, select, a, button") || event.ctrlKey || event.metaKey || event.altKey) return;
  const option = form.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
  if (option) {
    event.preventDefault();
    option.checked = true;
    option.focus();
  } else if (event.key === "Enter") {
    event.preventDefault();
    form.requestSubmit();
  }
});
