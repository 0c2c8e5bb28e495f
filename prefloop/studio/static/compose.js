// Composing a project's further questions: an editor for each, the same as YAML, and what annotators will see.

import { send } from "./net.js";
import { Questions } from "./questions.js";
import { make } from "./texts.js";

const find = (id) => document.getElementById(id);
const page = document.querySelector("[data-csrf]"), { csrf, project } = page.dataset;
const path = `/api/v1/projects/${project}/questions`;
const about = JSON.parse(find("about").textContent);
const KINDS = { rating: "Rating", choice: "Choice", text: "Free text", spans: "Marked parts" };
const FRESH = {
  rating: { of: "reply", levels: 5, required: true }, choice: { options: ["yes", "no"], required: true },
  text: {}, spans: { of: "reply", options: ["untrue", "unclear"] },
};
const SAMPLE = ["The first reply, as an annotator reads it. It has two sentences.", "The second reply says the same in other words."];
const DEFAULTS = { ask: "", of: "item", levels: 5, options: [], required: false };

let questions = about.questions.map((question) => ({ ...DEFAULTS, ...question }));
find("yaml").value = about.yaml;

// What is sent: of each kind what it has.
function cleaned({ name, kind, ask, of, levels, options, required }) {
  return { name: name.trim(), kind, ask: ask.trim(), of: kind === "spans" ? "reply" : of,
    ...(kind === "rating" ? { levels } : {}), ...(kind === "choice" || kind === "spans" ? { options } : {}), ...(kind === "spans" ? {} : { required }) };
}

let asking = 0;
async function look() {
  const mine = ++asking;
  find("saved").textContent = "";
  try {
    const reply = await send("POST", `${path}/preview`, { questions: questions.map(cleaned) }, csrf);
    if (mine !== asking) return;
    find("wrong").hidden = true;
    find("save").disabled = false;
    find("yaml").value = reply.yaml;
    preview(reply.questions);
  } catch (error) {
    if (mine !== asking) return;
    wrong(error);
    find("save").disabled = true;
  }
}

function wrong(error) {
  find("wrong").textContent = error.message;
  find("wrong").hidden = false;
}

function preview(asked) {
  const box = find("preview");
  const section = make("section", { id: "questions" });
  const sample = new Questions({ asked, find: () => section, odd: "\\u200b", changed: () => {}, say: () => {} });
  sample.begin(SAMPLE, {});
  box.replaceChildren(...(asked.length ? [] : [make("p", { class: "muted" }, "Only the main question is asked.")]),
    ...(asked.some((question) => question.of === "reply") ? SAMPLE.map((text, place) => make("article", { class: "response", "aria-label": `Response ${place + 1}` },
      make("header", {}, make("span", { class: "kind" }, `Response ${place + 1}`)), sample.text(place) || make("div", { class: "text plain" }, text), ...sample.ofReply(place))) : []), section);
}

function labelled(words, control, ...more) { return make("label", {}, words, " ", control, ...more); }

function editor(question, at) {
  const change = (name, value) => { question[name] = value; look(); };
  const text = (name, attributes = {}) => make("input", { value: question[name], ...attributes, oninput: (event) => change(name, event.target.value) });
  const required = make("input", { type: "checkbox", onchange: (event) => change("required", event.target.checked) });
  required.checked = question.required;
  const of = make("select", { onchange: (event) => change("of", event.target.value) }, make("option", { value: "item" }, "once"), make("option", { value: "reply" }, "of each reply"));
  of.value = question.of;
  const move = (by) => { const [it] = questions.splice(at, 1); questions.splice(at + by, 0, it); draw(at + by); };
  return make("li", { class: "card", "data-at": at },
    make("div", { class: "row" }, make("strong", {}, KINDS[question.kind]), make("span", {},
      make("button", { type: "button", class: "quiet small", "aria-label": `Move question ${at + 1} up`, disabled: at === 0, onclick: () => move(-1) }, "↑"),
      make("button", { type: "button", class: "quiet small", "aria-label": `Move question ${at + 1} down`, disabled: at === questions.length - 1, onclick: () => move(1) }, "↓"),
      make("button", { type: "button", class: "quiet small", "aria-label": `Remove question ${at + 1}`, onclick: () => { questions.splice(at, 1); draw(Math.min(at, questions.length - 1)); } }, "Remove"))),
    make("div", { class: "fields" },
      labelled("Question, as people read it", text("ask", { maxlength: 300, placeholder: question.name, dir: "auto" })),
      labelled("Name in exports", text("name", { maxlength: 40, spellcheck: "false" })),
      ...(question.kind === "spans" ? [] : [labelled("Asked", of)]),
      ...(question.kind === "rating" ? [labelled("Levels", make("input", { type: "number", min: 2, max: 9, value: question.levels, oninput: (event) => change("levels", Number(event.target.value)) }))] : []),
      ...("choice spans".includes(question.kind) ? [labelled(question.kind === "spans" ? "Labels, one per line" : "Options, one per line",
        Object.assign(make("textarea", { rows: 3, dir: "auto", oninput: (event) => change("options", event.target.value.split("\n").map((line) => line.trim()).filter(Boolean)) }), { value: question.options.join("\n") }))] : [])),
    ...(question.kind === "spans" ? [] : [make("label", { class: "check" }, required, " Must be answered")]));
}

function draw(focus = -1) {
  find("editors").replaceChildren(...questions.map(editor));
  find("no-questions").hidden = questions.length > 0;
  if (focus >= 0) find("editors").children[focus].querySelector("input").focus();
  look();
}

for (const button of document.querySelectorAll("[data-add]")) {
  button.addEventListener("click", () => {
    const kind = button.dataset.add, taken = new Set(questions.map((question) => question.name));
    let name = { rating: "quality", choice: "choice", text: "why", spans: "marks" }[kind];
    for (let n = 2; taken.has(name); n++) name = `${name.replace(/\d+$/, "")}${n}`;
    questions.push({ ...DEFAULTS, ...structuredClone(FRESH[kind]), name, kind });
    draw(questions.length - 1);
  });
}

find("read-yaml").addEventListener("click", async () => {
  try {
    const reply = await send("POST", `${path}/preview`, { yaml: find("yaml").value }, csrf);
    questions = reply.questions.map(({ wording, ...question }) => ({ ...question, ask: wording === question.name ? "" : wording }));
    draw();
  } catch (error) { wrong(error); }
});

find("save").addEventListener("click", async () => {
  try {
    await send("PUT", path, { questions: questions.map(cleaned) }, csrf);
    find("saved").textContent = "Saved. The next items are asked with them.";
  } catch (error) { wrong(error); }
});

const suggest = find("suggest");
if (suggest) suggest.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { judge, share } = suggest.elements;
  try {
    await send("PUT", path, { suggest_from: judge.value, suggest_share: Number(share.value) / 100 }, csrf);
    find("suggested").textContent = judge.value ? "Saved. New assignments show its verdict to some." : "Saved. No suggestions are shown.";
  } catch (error) { find("suggested").textContent = error.message; }
});

draw();
