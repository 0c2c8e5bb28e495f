// Live chat: one writes, two answers come, the better one goes on the conversation. What is chosen leaves by the outbox as everywhere (see label.js).

import { n, t } from "./words.js";
import { newKey, root, send } from "./net.js";
import { make } from "./texts.js";

const SOON = 350, LATER = 1500;   // milliseconds until the page looks again for answers

export class Talk {
  // find, text, say, ended: of label.js. show: puts two answers in front of one. clear: takes them away.
  constructor({ about, outbox, find, text, say, show, clear, ended }) {
    Object.assign(this, { about, outbox, find, text, say, show, clear, ended });
    this.token = "";
    this.messages = [];
    this.kept = `prefloop message ${root} ${about.account}`;
    this.then = null;      // { message, now } to send again, now or once it is edited
    this.letter = null;    // { message, key } that may not have arrived
    this.timer = 0;
    this.stopping = false; // whether the answers being written are to be taken as they are
    this.field = find("message");
    find("composer").addEventListener("submit", (event) => { event.preventDefault(); this.send(); });
    find("stop").addEventListener("click", () => this.stop());
    find("new-chat").addEventListener("click", () => this.begin());
    this.field.addEventListener("input", () => this.keep());
    this.field.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      event.stopPropagation();
      this.send();
    });
  }

  // The conversation as the server has it, once it has every answer of this page.
  async next() {
    this.clear();
    this.state(t("Storing your answer…"));
    await this.outbox.flush();
    await this.look();
  }

  async look() {
    clearTimeout(this.timer);
    try {
      this.take(this.token
        ? await send("GET", `/api/v1/chats/${this.token}`, undefined, this.about.csrf)
        : await send("POST", "/api/v1/chats", { project: this.about.project }, this.about.csrf));
    } catch (error) {
      if (error.status === 401 || error.status === 403) { this.ended(error.status); return; }
      this.state(error.status === 409 ? error.message : t("{error}; trying again…", { error: error.message }));
      if (error.status !== 409) this.again(LATER);
    }
  }

  again(wait) { this.timer = setTimeout(() => this.look(), wait); }

  take(chat) {
    const fresh = this.token !== chat.token;
    this.token = chat.token;
    if (chat.assignment) {
      this.hide();
      this.show(chat.assignment);
      this.find("responses").scrollIntoView({ block: "nearest" });
      return;
    }
    this.clear();
    this.find("talk").hidden = false;
    this.messages = chat.messages;
    this.paint();
    const turns = chat.messages.filter((turn) => turn.role === "assistant").length;
    this.find("count").textContent = n("{n} turn", "{n} turns", turns);
    this.find("composer").hidden = false;
    this.field.disabled = chat.waiting;
    this.find("send").disabled = chat.waiting;
    this.grow(chat);
    if (chat.waiting) {
      this.state(this.stopping ? t("Stopping…") : t("Two answers are being written…"));
      this.wait = chat.partial.length ? SOON : Math.min((this.wait || SOON) * 1.2, LATER);
      this.again(this.wait);
      return;
    }
    this.wait = 0;
    if (this.then) {
      const { message, now } = this.then;
      this.then = null;
      this.field.value = message;
      this.state("");
      if (now) { this.send(); return; }
      this.field.focus();
      return;
    }
    this.state(chat.problem ? t("No answers: {problem}.", { problem: chat.problem }) : chat.again ? t("No answers came. Send it again, or say it differently.") : chat.messages.length ? "" : t("Write a message. Two answers will come; choose the better one."));
    if (fresh || !this.field.value) this.field.value = this.keptHere() || chat.draft || chat.again;
    this.field.focus();
    this.find("composer").scrollIntoView({ block: "nearest" });
  }

  // Answers while they are written, side by side as they will be shown.
  grow(chat) {
    const box = this.find("partial");
    if (!chat.waiting) this.stopping = false;
    this.find("stop").hidden = !chat.waiting || this.stopping;
    box.hidden = !chat.partial.length;
    box.replaceChildren(...chat.partial.map(({ html, source }, place) =>
      make("div", { class: "card" }, make("p", { class: "kind" }, t("Response {n}", { n: place + 1 })), this.text(html, source))));
  }

  async stop() {
    this.stopping = true;
    this.find("stop").hidden = true;
    this.state(t("Stopping…"));
    this.field.focus();
    try {
      await send("POST", `/api/v1/chats/${this.token}/stop`, undefined, this.about.csrf);
    } catch (error) {
      this.stopping = false;
      this.find("stop").hidden = false;
      if (error.status === 401 || error.status === 403) this.ended(error.status); else this.say(error.message);
    }
  }

  paint() {
    this.find("said").replaceChildren(...this.messages.map((turn) =>
      make("div", { class: `turn ${turn.role}` }, make("p", { class: "kind" }, turn.role === "user" ? t("You") : t("Answer")), this.text(turn.html, turn.source))));
  }

  state(words) { this.find("writing").textContent = words; this.find("talk").hidden = false; }

  hide() {
    clearTimeout(this.timer);
    this.wait = 0;
    this.stopping = false;
    this.find("talk").hidden = this.find("composer").hidden = true;
  }

  async send() {
    const message = this.field.value.trim();
    if (!message || this.field.disabled) { if (!message) this.say(t("Write something first.")); return; }
    clearTimeout(this.drafting);
    if (!this.letter || this.letter.message !== message) this.letter = { message, key: newKey() };
    this.field.disabled = this.find("send").disabled = true;
    try {
      const chat = await send("POST", `/api/v1/chats/${this.token}/messages`, { message }, this.about.csrf, { headers: { "Idempotency-Key": this.letter.key } });
      this.letter = null;
      this.field.value = "";
      this.take(chat);
    } catch (error) {
      this.field.disabled = this.find("send").disabled = false;
      if (error.status === 401 || error.status === 403) { this.ended(error.status); return; }
      this.say(error.message);
      this.field.focus();
    }
  }

  async begin() {
    try {
      const chat = await send("POST", "/api/v1/chats", { project: this.about.project, new: true }, this.about.csrf);
      this.field.value = "";
      this.take(chat);
    } catch (error) {
      if (error.status === 401 || error.status === 403) this.ended(error.status); else this.say(error.message);
    }
  }

  keep() {
    clearTimeout(this.drafting);
    const message = this.field.value, token = this.token;
    this.drafting = setTimeout(() => {
      send("PUT", `/api/v1/chats/${token}/draft`, { message }, this.about.csrf).catch((error) => { if (error.status === 401 || error.status === 403) this.ended(error.status); });
    }, 800);
  }

  // A message that was begun when the session ended, for the page after signing in.
  keepHere() {
    const message = this.field.value;
    if (message) localStorage.setItem(this.kept, JSON.stringify({ token: this.token, message }));
  }

  keptHere() {
    const kept = JSON.parse(localStorage.getItem(this.kept) || "{}");
    localStorage.removeItem(this.kept);
    return kept.token === this.token ? kept.message : "";
  }
}
