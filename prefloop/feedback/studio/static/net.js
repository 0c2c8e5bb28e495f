// Talking to the server, and an outbox: an answer leaves it only when the server has said that it is stored.

export class Refused extends Error {
  constructor(status, text) { super(text); this.status = status; }
}

export async function send(method, path, body, csrf, headers = {}) {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      credentials: "same-origin",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, Accept: "application/json", ...headers },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new Refused(0, "the server cannot be reached");
  }
  if (answer.status === 204) return null;
  let said = null;
  try { said = await answer.json(); } catch { /* not JSON: told by the status */ }
  if (!answer.ok) throw new Refused(answer.status, (said && said.detail) || `status ${answer.status}`);
  return said;
}

export function newKey() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

const again = (status) => status === 0 || status === 429 || status >= 500;

// Answers in order, kept in the browser until they are acknowledged, so that a lost connection or a closed page loses none.
export class Outbox {
  constructor(account, csrf, { changed, refused }) {
    this.name = `prefloop outbox ${account}`;
    this.csrf = csrf;
    this.changed = changed;
    this.refused = refused;
    this.running = null;
    try { this.letters = JSON.parse(localStorage.getItem(this.name)) || []; } catch { this.letters = []; }
    if (this.letters.length) this.flush();
  }

  keep() {
    try { localStorage.setItem(this.name, JSON.stringify(this.letters)); } catch { /* private window: kept in memory */ }
    this.changed(this.letters.length);
  }

  put(token, what, body) {
    this.letters.push({ token, what, body, key: newKey() });
    this.keep();
    return this.flush();
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
      try {
        await send("POST", `/api/v1/assignments/${letter.token}/${letter.what}`, letter.body, this.csrf, { "Idempotency-Key": letter.key });
        wait = 500;
      } catch (error) {
        if (again(error.status)) {
          this.changed(this.letters.length, error.message);
          await new Promise((done) => setTimeout(done, wait));
          wait = Math.min(wait * 2, 15000);
          continue;
        }
        if (error.status === 401) { location.href = "/login"; return; }
        this.refused(letter, error);
      }
      this.letters.shift();
      this.keep();
    }
  }
}
