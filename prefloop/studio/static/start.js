// Filling an empty studio: the demo, what the store holds, or a file that is dragged, looked at and mapped.

import { root, send } from "./net.js";
import { make } from "./texts.js";

const find = (id) => document.getElementById(id);
const { csrf } = document.querySelector("[data-csrf]").dataset;

for (const button of document.querySelectorAll("[data-begin]")) {
  button.addEventListener("click", async () => {
    button.disabled = true;
    try {
      const made = await send("POST", `/api/v1/start/${button.dataset.begin}`, undefined, csrf);
      location.href = `${root}/label/${made.project}`;
    } catch (error) {
      button.disabled = false;
      find("start-told").textContent = error.message;
      find("start-told").hidden = false;
    }
  });
}

const form = find("import-file");
if (form) {
  const roles = JSON.parse(find("roles").textContent), { file: field, kind, format, project } = form.elements;
  let file = null, mapping = {}, asking = 0;

  const name = () => file.name.replace(/[^\w. -]/g, "_").slice(-100);
  const how = () => ({ name: name(), kind: kind.value, format: format.value,
    columns: Object.entries(mapping).filter(([, role]) => role).map(([column, role]) => `${role}=${column}`).join(",") });
  const post = (path, more = {}) => send("POST", `/api/v1/${path}?${new URLSearchParams({ ...how(), ...more })}`, file, csrf, { headers: { "Content-Type": "application/jsonl" } });

  const wrong = (error) => { find("wrong").textContent = error ? error.message : ""; find("wrong").hidden = !error; };

  async function look(fresh = false) {
    const mine = ++asking;
    try {
      let seen = await post("import/preview");
      // What the names of its columns say is tried at once, where the file cannot be read as it is.
      if (fresh && seen.problem && !seen.format && Object.keys(seen.guesses).length) {
        mapping = { ...seen.guesses };
        const again = await post("import/preview");
        if (again.format) seen = again; else mapping = {};
      }
      if (mine !== asking) return;
      wrong(null);
      show(seen);
      if (fresh) find("looked-title").focus();
    } catch (error) {
      if (mine === asking) { wrong(error); find("looked").hidden = fresh; }
    }
  }

  function show(seen) {
    find("looked").hidden = false;
    find("looked-title").textContent = seen.format ? `${seen.items} ${seen.items === 1 ? "item" : "items"} to judge` : "What are its columns?";
    find("how").textContent = seen.problem || `Read as ${seen.format}: ${seen.read} rows${seen.bad ? `, ${seen.bad} of them malformed and left out` : ""}.`;
    find("how").className = seen.problem ? "notice" : "muted";
    find("rows").replaceChildren(
      make("thead", {}, make("tr", {}, ...seen.columns.map((column) => make("th", { scope: "col" }, make("span", { dir: "auto" }, column), role(column))))),
      make("tbody", {}, ...seen.rows.map((row) => make("tr", {}, ...seen.columns.map((column) => make("td", { dir: "auto" }, make("div", { class: "cell" }, row[column])))))));
    find("first").replaceChildren(...seen.first.map((item) => make("div", { class: "card" }, make("p", { class: "kind" }, "Prompt"), make("p", { dir: "auto" }, item.prompt),
      make("div", { class: "two" }, ...item.completions.map((text, place) => make("div", { class: "response" }, make("p", { class: "kind" }, `Response ${place + 1}`), make("div", { class: "text plain", dir: "auto" }, text)))))));
    find("make").disabled = !seen.items;
  }

  function role(column) {
    const choice = make("select", { "aria-label": `What ${column} is`, onchange: (event) => { mapping[column] = event.target.value; look(); } },
      make("option", { value: "" }, roles.includes(column) ? `as it is named` : "not used"), ...roles.filter((role) => role !== column).map((role) => make("option", { value: role }, role)));
    choice.value = mapping[column] || "";
    return choice;
  }

  function take(given) {
    if (!given) return;
    file = given;
    mapping = {};
    find("chosen").textContent = `${file.name}, ${Math.ceil(file.size / 1024)} KB`;
    if (!project.value) project.value = file.name.replace(/(\.[a-z]+)+$/i, "").replace(/[_-]+/g, " ").slice(0, 100);
    look(true);
  }

  field.addEventListener("change", () => take(field.files[0]));
  for (const control of [kind, format]) control.addEventListener("change", () => look());
  const drop = find("drop");
  for (const type of ["dragenter", "dragover"]) drop.addEventListener(type, (event) => { event.preventDefault(); drop.classList.add("over"); });
  for (const type of ["dragleave", "drop"]) drop.addEventListener(type, () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    find("make").disabled = true;
    try {
      const made = await post("import", { project: project.value });
      location.href = `${root}/admin/projects/${made.project}`;
    } catch (error) { wrong(error); find("make").disabled = false; }
  });
}
