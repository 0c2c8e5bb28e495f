// What the other pages do beside showing: history, settings, people, import.

import { root, send } from "./net.js";
import { moments, t } from "./words.js";

moments();
const find = (id) => document.getElementById(id);
const csrf = document.querySelector("[data-csrf]").dataset.csrf;

function told(node, work) {
  return async (event) => {
    event.preventDefault();
    try { await work(event); } catch (error) { if (node) { node.hidden = false; node.textContent = error.message; } else alert(error.message); }
  };
}

for (const button of document.querySelectorAll("[data-undo]")) {
  button.addEventListener("click", told(null, async () => {
    const assignment = await send("POST", `/api/v1/assignments/${button.dataset.undo}/undo`, undefined, csrf);
    sessionStorage.setItem("prefloop undone", JSON.stringify(assignment));
    location.href = `${root}/label/${button.dataset.project}`;
  }));
}

for (const form of document.querySelectorAll("[data-dispute]")) {
  form.addEventListener("submit", told(null, async () => {
    await send("POST", `/api/v1/assignments/${form.dataset.dispute}/dispute`, { text: form.elements.text.value }, csrf);
    location.reload();
  }));
}
for (const form of document.querySelectorAll("[data-tags]")) {
  form.addEventListener("submit", told(form.querySelector("[role=status]"), async () => {
    const tags = form.elements.tags.value.split(",").map((tag) => tag.trim()).filter(Boolean);
    await send("PUT", `/api/v1/people/${form.dataset.tags}/tags`, { tags }, csrf);
    location.reload();
  }));
}

for (const field of document.querySelectorAll("input.key")) {
  field.addEventListener("keydown", (event) => {
    if (event.key === "Tab" || event.key === "Escape" || ["Shift", "Control", "Alt", "Meta"].includes(event.key)) return;
    event.preventDefault();
    const long = event.key.length > 1;
    field.value = event.key === "Backspace" ? field.dataset.usual : `${event.shiftKey && long ? "Shift+" : ""}${event.shiftKey || long ? event.key : event.key.toLowerCase()}`;
  });
}

const appearance = find("appearance");
if (appearance) {
  appearance.addEventListener("submit", told(find("told"), async () => {
    const keys = {};
    for (const field of appearance.querySelectorAll("input.key")) if (field.value !== field.dataset.usual) keys[field.name.slice(4)] = field.value;
    const { theme, size, language, at_once: atOnce } = appearance.elements;
    await send("PUT", "/api/v1/me/settings", { theme: theme.value, size: size.value, language: language.value, at_once: atOnce.checked, keys }, csrf);
    document.documentElement.dataset.theme = theme.value;
    document.documentElement.dataset.size = size.value;
    if (language.value !== language.dataset.was) { location.reload(); return; }
    find("told").textContent = t("Saved.");
  }));
}

const newToken = find("new-token");
if (newToken) {
  newToken.addEventListener("submit", told(find("token-made"), async () => {
    const { name, scopes } = newToken.elements;
    const made = await send("POST", "/api/v1/tokens", { name: name.value, scopes: scopes.value.split(" ") }, csrf);
    find("token-made").hidden = false;
    find("token-made").querySelector("code").textContent = made.token;
  }));
}
for (const button of document.querySelectorAll("[data-revoke]")) {
  button.addEventListener("click", told(null, async () => {
    await send("DELETE", `/api/v1/tokens/${button.dataset.revoke}`, undefined, csrf);
    button.closest("tr").remove();
  }));
}

for (const button of document.querySelectorAll("[data-end]")) {
  button.addEventListener("click", told(null, async () => {
    await send("DELETE", `/api/v1/me/sessions/${button.dataset.end}`, undefined, csrf);
    button.closest("tr").remove();
  }));
}
for (const button of document.querySelectorAll("[data-sign-out]")) {
  button.addEventListener("click", told(null, async () => {
    await send("DELETE", `/api/v1/people/${button.dataset.signOut}/sessions`, undefined, csrf);
    location.reload();
  }));
}
for (const button of document.querySelectorAll("[data-factor-off]")) {
  button.addEventListener("click", told(null, async () => {
    if (!confirm(`Let ${button.dataset.login} sign in with the password alone? Make sure that the request comes from them.`)) return;
    await send("DELETE", `/api/v1/people/${button.dataset.factorOff}/second_factor`, undefined, csrf);
    location.reload();
  }));
}

for (const button of document.querySelectorAll("[data-active]")) {
  button.addEventListener("click", told(null, async () => {
    await send("PUT", `/api/v1/people/${button.dataset.active}/active`, { active: button.dataset.to === "true" }, csrf);
    location.reload();
  }));
}
for (const choice of document.querySelectorAll("[data-role]")) {
  choice.addEventListener("change", told(null, async () => {
    try {
      await send("PUT", `/api/v1/people/${choice.dataset.role}/role`, { role: choice.value }, csrf);
      choice.dataset.was = choice.value;
    } catch (error) {
      choice.value = choice.dataset.was;
      throw error;
    }
  }));
}
for (const button of document.querySelectorAll("[data-anonymise]")) {
  button.addEventListener("click", told(null, async () => {
    if (!confirm(`Delete the account of ${button.dataset.login} for good? Its judgements stay, under the pseudonym.`)) return;
    await send("POST", `/api/v1/people/${button.dataset.anonymise}/anonymise`, undefined, csrf);
    location.reload();
  }));
}
for (const button of document.querySelectorAll("[data-erase]")) {
  button.addEventListener("click", told(null, async () => {
    const { login, erase } = button.dataset;
    if (prompt(`This deletes the account of ${login} and every word they wrote, for good. Their choices stay, under the pseudonym. Type the login to go on.`) !== login) return;
    await send("POST", `/api/v1/people/${erase}/erase`, undefined, csrf);
    location.reload();
  }));
}

for (const button of document.querySelectorAll("[data-reset]")) {
  button.addEventListener("click", told(null, async () => {
    const made = await send("POST", `/api/v1/people/${button.dataset.reset}/reset`, undefined, csrf);
    const place = find("reset-made");
    place.hidden = false;
    place.querySelector("span").textContent = `${button.dataset.login} is signed out everywhere. This link sets a new password, once, within a day; send it to them:`;
    place.querySelector("code").textContent = new URL(made.path, location.href).href;
    place.scrollIntoView({ block: "nearest" });
  }));
}

const memberForm = find("member");
if (memberForm) {
  const path = `/api/v1/projects/${memberForm.dataset.of}/members`;
  memberForm.addEventListener("submit", told(find("member-told"), async () => {
    const { login, role } = memberForm.elements;
    await send("PUT", path, { login: login.value, role: role.value }, csrf);
    location.reload();
  }));
  for (const choice of document.querySelectorAll("[data-member]")) {
    choice.addEventListener("change", told(find("member-told"), async () => {
      try {
        await send("PUT", path, { login: choice.dataset.member, role: choice.value }, csrf);
        choice.dataset.was = choice.value;
        find("member-told").textContent = `${choice.dataset.member} is ${choice.value} now.`;
      } catch (error) {
        choice.value = choice.dataset.was;
        throw error;
      }
    }));
  }
  for (const button of document.querySelectorAll("[data-remove]")) {
    button.addEventListener("click", told(find("member-told"), async () => {
      await send("DELETE", `${path}/${button.dataset.remove}`, undefined, csrf);
      location.reload();
    }));
  }
}

const inviteForm = find("invite");
if (inviteForm) {
  inviteForm.addEventListener("submit", told(find("invited").querySelector("span"), async () => {
    const { role, uses, days, note } = inviteForm.elements;
    const projects = inviteForm.dataset.of ? [Number(inviteForm.dataset.of)]
      : [...inviteForm.querySelectorAll("[name=projects]:checked")].map((box) => Number(box.value));
    const place = find("invited");
    place.hidden = false;
    place.querySelector("code").textContent = "";
    const made = await send("POST", "/api/v1/invitations", { role: role.value, uses: Number(uses.value), days: Number(days.value), note: note.value, projects }, csrf);
    place.querySelector("span").textContent = "Send this link. It is shown only once:";
    place.querySelector("code").textContent = new URL(made.path, location.href).href;
  }));
}
for (const button of document.querySelectorAll("[data-revoke-link]")) {
  button.addEventListener("click", told(null, async () => {
    await send("DELETE", `/api/v1/invitations/${button.dataset.revokeLink}`, undefined, csrf);
    location.reload();
  }));
}
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch { /* without TLS there is no clipboard: it is marked, to be copied by hand */
      getSelection().selectAllChildren(code);
    }
  });
}

const importForm = find("import");
if (importForm) {
  const project = document.querySelector("[data-project]").dataset.project;
  importForm.addEventListener("submit", told(find("imported"), async () => {
    const [file] = importForm.elements.file.files;
    find("imported").textContent = "Reading…";
    const name = file.name.replace(/[^\w. -]/g, "_").slice(-100);
    const { columns, format, stage } = importForm.elements;
    const how = new URLSearchParams({ name, columns: columns.value, format: format.value, as: stage.value });
    const made = await send("POST", `/api/v1/projects/${project}/import?${how}`, file, csrf, { headers: { "Content-Type": "application/jsonl" } });
    find("imported").textContent = `${made.rows} rows, ${made.items} items, ${made.new} of them new`
      + (made.known ? `, ${made.known} with a known answer` : "")
      + (made.bad ? `, ${made.bad} bad rows left out` : "")
      + (made.left_out ? `, ${made.left_out} prompts left out that have too few different completions` : "") + ".";
  }));
}
