// A reply as it was written, in which parts can be marked. Every piece of it knows where it stands in the source, so what is selected has exact offsets.

import { t } from "./words.js";
import { make } from "./texts.js";
import { marks, picture } from "./pictures.js";

export class Markable {
  // add({ question, label, from, to, comment }): a part was marked; from and to are indices of JavaScript's.
  constructor({ source, odd, name, labels, add, images = "" }) {
    Object.assign(this, { source, labels, add, images });
    this.odd = new RegExp(`\\r\\n|${odd}`, "gu");
    this.body = make("div", { class: "text plain markable", dir: "auto", tabindex: "-1", role: "group", "aria-label": t("{response}, to mark", { response: name }) });
    this.panel = make("div", { class: "marker", role: "group", "aria-label": t("Mark this part"), hidden: true });
    this.node = make("div", { class: "text markable-box" }, this.body, this.panel);
    this.part = null;
    this.body.addEventListener("pointerup", () => setTimeout(() => this.look()));
    this.body.addEventListener("touchend", () => setTimeout(() => this.look(), 50));
    this.body.addEventListener("keydown", (event) => this.key(event));
  }

  // spans: what is marked, with from, to and label.
  paint(spans) {
    const cuts = new Set([0, this.source.length]);
    for (const { from, to } of spans) cuts.add(from).add(to);
    for (const match of this.source.matchAll(this.odd)) cuts.add(match.index).add(match.index + match[0].length);
    for (const match of this.source.matchAll(marks())) {
      for (let at = match.index + 1; at < match.index + match[0].length; at++) cuts.delete(at);
      cuts.add(match.index).add(match.index + match[0].length);
    }
    const ends = [...cuts].sort((a, b) => a - b);
    this.body.replaceChildren(...ends.slice(0, -1).map((at, number) => this.piece(at, ends[number + 1], spans)));
  }

  piece(from, to, spans) {
    const text = this.source.slice(from, to);
    const on = spans.filter((span) => span.from <= from && to <= span.to);
    const isOdd = new RegExp(`^(?:${this.odd.source})$`, "u").test(text);
    const shown = text === "\r\n" ? "\n" : isOdd ? `U+${text.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}` : text;
    const image = this.images && [...text.matchAll(marks())].find((found) => found[0] === text);
    if (image) return make(on.length ? "mark" : "span", { "data-at": from, "data-odd": to - from, class: "shows" }, picture(image, this.images, new RegExp(this.odd.source, "gu")));
    const titles = [...new Set(on.map((span) => span.label))].join(", ");
    return make(on.length ? "mark" : "span", { "data-at": from, "data-odd": isOdd ? to - from : null, class: isOdd && text !== "\r\n" ? "odd" : null, title: titles || null,
      "data-depth": on.length ? Math.min(3, on.length) : null }, shown);
  }

  // Where an end of a selection stands in the source; null outside the text.
  place(node, offset) {
    if (node === this.body) {
      const next = this.body.children[offset];
      return next ? Number(next.dataset.at) : this.source.length;
    }
    const piece = (node.nodeType === 3 ? node.parentElement : node).closest("[data-at]");
    if (!piece || !this.body.contains(piece)) return null;
    const at = Number(piece.dataset.at);
    if (piece.dataset.odd) return offset ? at + Number(piece.dataset.odd) : at;
    return node.nodeType === 3 ? at + offset : at;
  }

  // The part that is selected; null for none.
  selected() {
    const selection = getSelection();
    if (!selection.rangeCount || selection.isCollapsed) return null;
    const range = selection.getRangeAt(0);
    const whole = new Range();
    whole.selectNodeContents(this.body);
    const after = range.compareBoundaryPoints(Range.START_TO_END, whole), before = range.compareBoundaryPoints(Range.END_TO_START, whole);
    if (after <= 0 || before >= 0) return null;
    let from = range.compareBoundaryPoints(Range.START_TO_START, whole) < 0 ? 0 : this.place(range.startContainer, range.startOffset);
    let to = range.compareBoundaryPoints(Range.END_TO_END, whole) > 0 ? this.source.length : this.place(range.endContainer, range.endOffset);
    if (from === null || to === null) return null;
    while (from < to && /\s/.test(this.source[from])) from++;
    while (to > from && /\s/.test(this.source[to - 1])) to--;
    return from < to ? { from, to } : null;
  }

  look() {
    this.part = this.selected();
    if (this.part) this.open(); else this.close();
  }

  open() {
    const { from, to } = this.part;
    const part = this.source.slice(from, to);
    const comment = make("input", { type: "text", maxlength: 2000, dir: "auto", "aria-label": t("Comment on this part"), placeholder: t("Comment, if you like") });
    const mark = ({ question, label }) => { this.add({ question, label, from, to, comment: comment.value.trim() }); this.close(); getSelection().removeAllRanges(); this.body.focus(); };
    this.panel.replaceChildren(
      make("p", {}, `${t("Choose a label for")} `, make("q", { dir: "auto" }, part.length > 50 ? `${part.slice(0, 48)}…` : part)),
      make("div", { class: "chips" }, ...this.labels.map((entry) => make("button", { type: "button", dir: "auto", onclick: () => mark(entry) }, entry.label))),
      comment);
    this.panel.hidden = false;
    this.panel.onkeydown = (event) => {
      event.stopPropagation();
      if (event.key === "Escape") { this.close(); this.body.focus(); }
      if (event.key === "Enter" && event.target === comment) { event.preventDefault(); if (this.labels.length === 1) mark(this.labels[0]); else this.panel.querySelector("button").focus(); }
    };
  }

  close() {
    this.part = null;
    this.panel.hidden = true;
  }

  // By keys, word by word: `from` and `to` number the words at the two ends.
  begin() {
    this.words = [...this.source.matchAll(/\S+/gu)].map((match) => [match.index, match.index + match[0].length]);
    if (!this.words.length) return;
    this.at = { from: 0, to: 0 };
    this.body.focus();
    this.select();
  }

  select() {
    const { from, to } = this.at, [first, last] = [Math.min(from, to), Math.max(from, to)];
    const range = new Range();
    range.setStart(...this.point(this.words[first][0]));
    range.setEnd(...this.point(this.words[last][1]));
    getSelection().removeAllRanges();
    getSelection().addRange(range);
    this.body.querySelector(`[data-at="${range.startContainer.parentElement.dataset.at}"]`)?.scrollIntoView({ block: "nearest" });
  }

  // Where an index of the source stands on the page.
  point(index) {
    const piece = [...this.body.children].findLast((part) => Number(part.dataset.at) < index) || this.body.firstChild;
    const into = index - Number(piece.dataset.at);
    if (piece.dataset.odd) return [piece.firstChild, into ? piece.firstChild.length : 0];
    return [piece.firstChild, Math.min(into, piece.firstChild.length)];
  }

  // The word that begins the next sentence or line, or the one before.
  sentence(from, way) {
    for (let at = from + way; at > 0 && at < this.words.length; at += way) {
      const between = this.source.slice(this.words[at - 1][1] - 1, this.words[at][0]);
      if (/[.!?:]\s|\n/.test(between)) return at;
    }
    return way < 0 ? 0 : this.words.length - 1;
  }

  key(event) {
    if (!this.at) return;
    const { to } = this.at;
    const next = { ArrowRight: () => to + 1, ArrowLeft: () => to - 1, ArrowDown: () => this.sentence(to, 1), ArrowUp: () => this.sentence(to, -1) }[event.key];
    if (!next && event.key !== "Enter") return;
    event.preventDefault();
    event.stopPropagation();
    if (next) {
      const reached = Math.max(0, Math.min(this.words.length - 1, next()));
      this.at = { from: event.shiftKey ? this.at.from : reached, to: reached };
      this.select();
      return;
    }
    this.look();
    if (this.part) this.panel.querySelector("button").focus();
  }
}
