// Talking to the server, and an outbox: an answer leaves it only when the server has said that it is stored.

import { t } from "./words.js";

// The path that the studio is served under; empty at the top of an address.
export const root = document.documentElement.dataset.root;

const STATUS = {
  413: t("the request is larger than a proxy allows (status 413)"),
  502: t("the server is not running behind its proxy (status 502)"),
  503: t("the server is busy or not ready (status 503)"),
  504: t("the server took longer than its proxy waits (status 504)"),
};

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

const PATIENCE = 60000; // milliseconds until an answer that is on its way is sent again; the server takes it once

export async function send(method, path, body, csrf, { headers = {}, keepalive = false, signal = undefined } = {}) {
  let answer;
  try {
    answer = await fetch(root + path, {
      method,
      keepalive,
      signal,
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, Accept: "application/json", ...headers },
      body: body === undefined || body instanceof Blob ? body : JSON.stringify(body),
    });
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? t("the server does not answer") : t("the server cannot be reached"));
  }
  if (answer.status === 204) return null;
  let content = null;
  let read = true;
  try { content = await answer.json(); } catch { read = false; /* a proxy's page, not the studio's answer */ }
  if (answer.status === 401) throw new Refused(401, t("your session has ended; reload the page to sign in"));
  if (!answer.ok) throw new Refused(answer.status, (content && content.detail) || STATUS[answer.status] || t("the server answered with status {status}", { status: answer.status }));
  // A login page of a network, for example: nothing is stored.
  if (!read) throw new Refused(0, t("something other than the studio answered"));
  return content;
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

// Whether sending it again may help.
export const passing = (status) => status === 0 || status === 429 || status >= 500;

// Answers in order, kept in the browser until they are acknowledged, so that a lost connection, an ended session or a closed page loses none.
export class Outbox {
  // changed(count, why): how many are kept, and why they are not sent yet. stored(letter, said): what the server answered. refused(letter, error): one that the server does not take.
  // ended(status): nobody is signed in (401), or the page is from another session (403); the letters wait for the next page.
  constructor(account, csrf, { changed, stored, refused, ended }) {
    this.name = `prefloop outbox ${root}${root && " "}${account}`;
    Object.assign(this, { csrf, changed, acknowledged: stored, refused, ended });
    this.running = null;
    this.wake = () => {};
    this.letters = this.stored();
    this.known = new Set(this.letters.map((letter) => letter.key));
    if (this.letters.length) this.flush();
  }

  stored() {
    try { return JSON.parse(localStorage.getItem(this.name)) || []; } catch { return []; }
  }

  // Letters of another window stay as they are.
  keep() {
    const others = this.stored().filter((letter) => !this.known.has(letter.key));
    try { localStorage.setItem(this.name, JSON.stringify([...others, ...this.letters])); } catch { /* private window: kept in memory */ }
    this.changed(this.letters.length);
  }

  put(token, what, body) {
    const key = newKey();
    this.known.add(key);
    this.letters.push({ token, what, body, key });
    this.keep();
    return this.flush();
  }

  // Take a letter out again; false where it may have reached the server.
  take(token) {
    const at = this.letters.findLastIndex((letter) => letter.token === token);
    if (at < 0 || this.letters[at].tried) return false;
    this.letters.splice(at, 1);
    this.keep();
    return true;
  }

  has(token) { return this.letters.some((letter) => letter.token === token); }

  flush() {
    if (!this.running) this.running = this.work().finally(() => { this.running = null; });
    return this.running;
  }

  async work() {
    let wait = 500;
    while (this.letters.length) {
      const letter = this.letters[0];
      letter.tried = true;
      let content = null;
      try {
        content = await send("POST", `/api/v1/assignments/${letter.token}/${letter.what}`, letter.body, this.csrf, { headers: { "Idempotency-Key": letter.key }, signal: AbortSignal.timeout(PATIENCE) });
        wait = 500;
      } catch (error) {
        if (passing(error.status)) {
          this.changed(this.letters.length, error.message);
          await new Promise((done) => { this.wake = done; setTimeout(done, wait); });
          wait = Math.min(wait * 2, 15000);
          continue;
        }
        // 403 once may be another session's page; from a page that is loaded anew it is an answer.
        if (error.status === 401 || (error.status === 403 && !letter.forbidden)) {
          letter.forbidden = error.status === 403;
          this.keep();
          this.changed(this.letters.length, error.message);
          this.ended(error.status);
          return;
        }
        this.refused(letter, error);
      }
      this.letters.shift();
      this.keep();
      if (content) this.acknowledged(letter, content);
    }
  }
}
