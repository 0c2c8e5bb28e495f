// Further questions beside the main one, and spans marked in replies. Answers are kept by places; spans count characters as Unicode does, not as JavaScript.

import { t } from "./words.js";
import { Markable } from "./spans.js";
import { marks } from "./pictures.js";
import { make } from "./texts.js";

// How many characters a text has before an index of JavaScript's, and back.
export const characters = (text, index) => [...text.slice(0, index)].length;
export const index = (text, count) => [...text].slice(0, count).join("").length;

export class Questions {
  // asked: as the server tells of them. find: by id. changed: called after every answer. odd: characters shown by number.
  // markKey: the key that begins to mark.
  constructor({ asked, find, changed, odd, say, markKey = "m" }) {
    Object.assign(this, { asked, find, changed, odd, say, markKey });
    this.marks = asked.some((question) => question.kind === "spans");
    this.values = new Map();
    this.spans = [];
    this.sources = [];
    this.images = "";
    this.markables = [];
  }

  get any() { return this.asked.length > 0; }

  // An item is shown. draft: what was answered before.
  begin(sources, draft, images = "") {
    this.sources = sources;
    this.images = images;
    this.values = new Map((draft.answers || []).map((given) => [this.key(given.question, given.place ?? null), given.value]));
    this.spans = (draft.spans || []).map((span) => ({ ...span }));
    this.markables = [];
    this.find("questions").replaceChildren(...this.asked.filter((question) => question.of === "item").map((question) => this.field(question, null)));
    this.find("questions").hidden = !this.find("questions").children.length;
  }

  key(name, place) { return `${name} ${place}`; }

  // What stands under a reply.
  ofReply(place) {
    return this.asked.filter((question) => question.of === "reply").map((question) => question.kind === "spans" ? this.marked(question, place) : this.field(question, place));
  }

  // A reply's text, to mark parts of; null where nothing is marked.
  text(place) {
    if (!this.marks) return null;
    const labels = this.asked.filter((question) => question.kind === "spans");
    const reply = new Markable({ source: this.sources[place], images: this.images, odd: this.odd, name: this.sources.length > 1 ? t("Response {n}", { n: place + 1 }) : t("Response"),
      labels: labels.flatMap((question) => question.options.map((label) => ({ question: question.name, label }))),
      add: (part) => this.add(place, part) });
    this.markables[place] = reply;
    reply.paint(this.of(place));
    return reply.node;
  }

  // By keys: the reply after the one where something was marked last.
  beginMark() {
    if (!this.marks) return;
    const at = this.markables.findIndex((marked) => marked.body === document.activeElement);
    this.markables[(at + 1) % this.markables.length].begin();
  }

  of(place) {
    const source = this.sources[place];
    return this.spans.filter((span) => span.place === place).map((span) => ({ ...span, from: index(source, span.start), to: index(source, span.end) }));
  }

  add(place, { question, label, from, to, comment }) {
    const source = this.sources[place];
    const span = { question, place, start: characters(source, from), end: characters(source, to), label, comment };
    const same = (other) => ["question", "place", "start", "end", "label"].every((name) => other[name] === span[name]);
    if (this.spans.some(same)) { this.say(t("This part has that label already.")); return; }
    this.spans.push(span);
    this.repaint(place);
  }

  repaint(place) {
    this.markables[place].paint(this.of(place));
    for (const list of document.querySelectorAll(`[data-marks="${place}"]`)) this.list(list, place);
    this.changed();
  }

  marked(question, place) {
    const list = make("ul", { class: "marks", "data-marks": place, "data-question": question.name, "aria-label": question.wording });
    this.list(list, place);
    return make("div", { class: "question" }, make("p", { class: "asks", dir: "auto" }, question.wording),
      make("p", { class: "muted small hint" }, t("Select a part of the text, then choose a label."), make("span", { class: "by-key" }, " ", make("kbd", {}, this.markKey))), list);
  }

  list(list, place) {
    const here = this.spans.filter((span) => span.place === place && span.question === list.dataset.question).sort((a, b) => a.start - b.start);
    list.replaceChildren(...here.map((span) => make("li", {},
      make("span", { class: "label" }, span.label),
      make("q", { dir: "auto" }, this.excerpt(place, span)),
      span.comment ? make("span", { class: "muted", dir: "auto" }, span.comment) : null,
      make("button", { type: "button", class: "quiet small", "aria-label": t("Remove the mark {label}", { label: span.label }), onclick: () => { this.spans.splice(this.spans.indexOf(span), 1); this.repaint(place); } }, t("Remove")))));
  }

  excerpt(place, span) {
    const part = [...this.sources[place]].slice(span.start, span.end).join("").replace(marks(), (_, alt) => (alt ? `[${alt.replace(/\\([\[\]\\])/g, "$1")}]` : `[${t("Image without a description")}]`));
    return part.length > 60 ? `${part.slice(0, 58)}…` : part;
  }

  field(question, place) {
    const about = place === null || this.sources.length < 2 ? question.wording : t("{question}, response {n}", { question: question.wording, n: place + 1 });
    const title = make("span", { class: "asks", dir: "auto" }, question.wording, question.required ? null : make("span", { class: "muted small" }, ` ${t("(optional)")}`));
    if (question.kind === "text") {
      const area = make("textarea", { rows: 2, maxlength: 20000, dir: "auto", "aria-label": about });
      area.value = this.values.get(this.key(question.name, place)) || "";
      area.addEventListener("input", () => this.set(question, place, area.value));
      return make("label", { class: "question", "data-question": question.name }, title, area);
    }
    const options = question.kind === "rating" ? [...Array(question.levels).keys()].map((level) => level + 1) : question.options;
    const row = make("div", { class: `picks ${question.kind}` }, ...options.map((option) => make("button", {
      type: "button", dir: "auto", "data-value": option, "aria-label": question.kind === "rating" ? `${about}: ${option} of ${question.levels}` : null,
      onclick: () => { const now = this.values.get(this.key(question.name, place)); this.set(question, place, now === option && !question.required ? undefined : option); this.press(row, question, place); },
    }, String(option))));
    this.press(row, question, place);
    return make("div", { class: "question", role: "group", "aria-label": about, "data-question": question.name }, title, row);
  }

  press(row, question, place) {
    const now = this.values.get(this.key(question.name, place));
    for (const button of row.children) button.setAttribute("aria-pressed", String(button.dataset.value === String(now)));
  }

  set(question, place, value) {
    const key = this.key(question.name, place);
    if (value === undefined || (question.kind === "text" && !value.trim())) this.values.delete(key); else this.values.set(key, value);
    this.changed();
  }

  // The wording of the first required question without an answer; empty where there is none.
  missing() {
    for (const question of this.asked.filter((one) => one.required)) {
      const places = question.of === "reply" ? this.sources.map((_, place) => place) : [null];
      if (places.some((place) => !this.values.has(this.key(question.name, place)))) return question.wording;
    }
    return "";
  }

  // As it is sent, and kept unfinished.
  body() {
    const answers = this.asked.filter((question) => question.kind !== "spans").flatMap((question) =>
      (question.of === "reply" ? this.sources.map((_, place) => place) : [null])
        .filter((place) => this.values.has(this.key(question.name, place)))
        .map((place) => ({ question: question.name, value: this.values.get(this.key(question.name, place)), ...(place === null ? {} : { place }) })));
    return { ...(answers.length ? { answers } : {}), ...(this.spans.length ? { spans: this.spans } : {}) };
  }
}
