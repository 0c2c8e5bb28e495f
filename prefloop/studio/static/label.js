// The page where one judges. The item on the screen and the next one are leased; an answer goes to the outbox and the next item is shown at once.

import { Outbox, passing, root, send } from "./net.js";
import { Talk } from "./chat.js";
import { Questions } from "./questions.js";
import { n, t } from "./words.js";
import { Texts, make, sameText, typeset } from "./texts.js";

const about = JSON.parse(document.getElementById("about").textContent);
const find = (id) => document.getElementById(id);
const stage = find("stage"), verdict = find("verdict"), toast = find("toast");
const SLIGHTLY = t("slightly better"), BETTER = t("better"), MUCH = t("much better");
const LEVELS = { 0: { 1: BETTER }, 2: { 1: BETTER, 2: MUCH }, 3: { 1: SLIGHTLY, 2: BETTER, 3: MUCH } };
const CHOICES = { first: t("1 is better"), second: t("2 is better"), tie: t("equally good"), both_bad: t("both bad"), good: t("good"), bad: t("bad") };
const USUAL = { 0: 0, 2: 1, 3: 2 };
const ROLES = { prompt: t("Prompt"), user: t("User"), assistant: t("Assistant"), system: t("System") };
const PAIR = ["pair", "clip", "chat"].includes(about.kind);
const EDITS = about.kind in { pair: 1, chat: 1, edit: 1 };
const SIDES = ["first", "second"];

const keyOf = {};
for (const name of Object.keys(about.keyNames)) keyOf[about.keys[name]] = name;

let current = null;      // { assignment, answer, seen, since }
let waiting = [];        // leased and not shown yet
let past = [];           // { assignment, draft } answered on this page, newest last
let asking = null;       // the request for the next item
let turn = 0;            // counts what is shown next, so that an item that comes too late is not shown over another
let draftTimer = 0;
let flagging = false;
let differing = false;   // what differs is marked, in this item
let asWritten = false;   // texts are shown as they were written, until they are not
let undoing = false;
let countShown = 0;
let counts = { done: 0, left: 0 };
let unread = about.unread;  // guidelines to be read before the next item
let told = null;         // what goes on from the feedback on a practice item
const gone = new Map();  // token -> "submit" or "skip", of what was answered here

const outbox = new Outbox(about.account, about.csrf, {
  changed(count, why) {
    const saved = find("saved");
    saved.textContent = count === 0 ? t("saved") : why ? t("{n} not saved yet: {why}", { n: count, why }) : t("saving…");
    saved.classList.toggle("waiting", Boolean(count && why));
  },
  stored(letter, stored) {
    if (stored && stored.models && stored.models.length) reveal(stored.models);
    if (stored && stored.feedback && current && current.assignment.token === letter.token) feedback(stored.feedback);
  },
  refused(letter, error) {
    const { token, what } = letter;
    say(what === "undo" ? t("Not undone: {why}", { why: error.message }) : t("Not stored: {why}", { why: error.message }));
    past = past.filter(({ assignment }) => assignment.token !== token);
    gone.delete(token);
    if ((what === "undo" || told) && current && current.assignment.token === token) next();
  },
  ended,
});

for (const { token, what } of outbox.letters) if (what !== "undo") gone.set(token, what);

// Elements

const questions = new Questions({ asked: about.questions, find, odd: about.odd, say, markKey: shown(about.keys.mark), changed: () => { mark(); draft(); } });
const texts = new Texts({ render: stage.dataset.render, odd: about.odd });

function text(html, source) { return asWritten ? texts.written(source) : texts.read(html); }

function kbd(name) { return make("kbd", {}, shown(about.keys[name] || "")); }

function shown(key) {
  const words = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", Enter: "↵", " ": "space" };
  return key.replace("Shift+", "⇧").replace(/Arrow\w+|Enter| /, (name) => words[name] || name);
}

// Getting items

async function ask() {
  const have = [...waiting, current].filter(Boolean).map((held) => held.assignment.token)
    .concat(outbox.letters.map((letter) => letter.token)).slice(0, 10);
  const lease = await send("POST", "/api/v1/assignments/next", { project: about.project, have }, about.csrf);
  // What has left this page counts here at once; the server counts it when it comes.
  const sent = lease.unanswered.filter((token) => gone.has(token));
  const back = outbox.letters.filter((letter) => letter.what === "undo" && !lease.unanswered.includes(letter.token)).length;
  counts = { done: lease.done + sent.filter((token) => gone.get(token) === "submit").length - back, left: lease.left - sent.length + back };
  count();
  unread = lease.guidelines;
  find("nothing-why").textContent = lease.state === "open" ? lease.why || t("Every item here is answered, or somebody else has it. Thank you.") : lease.state === "paused" ? t("This project is paused.") : t("This project is closed.");
  return lease.assignment;
}

const MOST_LEFT = 100;  // the server counts no further

function count(done = 0, left = 0) {
  counts.done += done;
  counts.left = Math.max(0, counts.left + left);
  find("progress").max = Math.max(1, counts.done + counts.left);
  find("progress").value = counts.done;
  find("count").textContent = t("{done} done · {left} left", { ...counts, left: counts.left < MOST_LEFT ? counts.left : `${MOST_LEFT}+` });
}

// Lease the next item; null where it worked (there may be none), or the error.
function prefetch() {
  if (talk) return null;
  if (asking || waiting.length) return asking;
  asking = ask().then((assignment) => { if (assignment) waiting.push({ assignment }); return null; }, (error) => error).finally(() => { asking = null; });
  return asking;
}

async function next() {
  current = null;
  told = null;
  const mine = ++turn;
  if (unread) { read(); return; }
  if (talk) { await talk.next(); return; }
  for (let wait = 500; !waiting.length; ) {
    const error = await prefetch();
    if (mine !== turn) return;
    if (waiting.length) break;
    if (!error && unread) { read(); return; }
    if (!error) {
      if (!outbox.letters.length) { nothing(); return; }
      await outbox.flush();  // what is on its way may have held the last places
      if (mine !== turn || outbox.letters.length) return;
      continue;
    }
    if (noSession(error)) { ended(error.status); return; }
    away(error);
    if (!passing(error.status)) return;
    await new Promise((done) => { wake = done; setTimeout(done, wait); });
    wait = Math.min(wait * 2, 15000);
    if (mine !== turn) return;
  }
  show(waiting.shift().assignment);
  prefetch();
}

let wake = () => {};

function away(error) {
  clear();
  find("nothing").hidden = true;
  find("away").hidden = false;
  find("away-why").textContent = passing(error.status)
    ? [`${error.message[0].toUpperCase()}${error.message.slice(1)}.`, outbox.letters.length ? t("Your answers are kept in this browser and will be sent.") : "", t("The next item will load by itself.")].filter(Boolean).join(" ")
    : error.message;
}

const noSession = (error) => error.status === 401 || error.status === 403;

// Nobody is signed in any more, or somebody has signed in anew: what is unfinished is kept, and said.
function ended(status) {
  keepDraft();
  if (talk) talk.keepHere();
  stopDraft();
  const kept = outbox.letters.length;
  find("ended-title").textContent = status === 401 ? t("Your session has ended") : t("This page is from another session");
  find("ended-kept").textContent = kept ? n("An answer is kept in this browser and will be sent.", "{n} answers are kept in this browser and will be sent.", kept) : t("Your unfinished work is kept.");
  find("sign-in").hidden = status !== 401;
  find("load-again").hidden = status === 401;
  if (!find("ended").open) find("ended").showModal();
}

function nothing() {
  clear();
  find("away").hidden = true;
  find("nothing").hidden = false;
}

// Guidelines come before the first item, and again when they have changed.
function read() {
  clear();
  find("nothing").hidden = find("away").hidden = true;
  find("read-title").textContent = unread.changed ? t("The guidelines have changed") : t("Before you begin");
  find("read-why").textContent = unread.changed ? t("Read them again. They apply to your next answers.") : t("Read how to judge here. You can open this again at any time.");
  find("read-text").innerHTML = find("guidelines").querySelector(".text").innerHTML = unread.html;
  typeset(find("read-text"));
  typeset(find("guidelines"));
  find("read").hidden = false;
  find("read-title").focus();
  window.scrollTo(0, 0);
}

async function haveRead() {
  const button = find("have-read");
  if (button.disabled) return;
  button.disabled = true;
  try {
    await outbox.flush();  // an answer given under the earlier ones keeps their version
    await send("POST", `/api/v1/projects/${about.project}/guidelines/read`, { version: unread.version }, about.csrf);
    unread = null;
    find("read").hidden = true;
    next();
  } catch (error) {
    if (noSession(error)) ended(error.status);
    else if (error.status === 409) location.reload();  // they have changed again
    else say(t("Not stored: {why}", { why: error.message }));
  } finally {
    button.disabled = false;
  }
}

// What is known of a practice item, shown under it until one goes on.
function feedback({ right, expected, note }) {
  told = () => { find("feedback").hidden = true; next(); };
  find("feedback").replaceChildren(
    make("h2", {}, right ? `✓ ${t("Right")}` : `✗ ${t("The known answer is: {answer}", { answer: CHOICES[expected] || expected })}`),
    ...(note ? [make("p", { dir: "auto" }, note)] : []),
    ...(right ? [] : [make("p", {}, make("button", { type: "button", onclick: disagree }, t("I disagree…")))]),
  );
  find("feedback").hidden = false;
  verdict.replaceChildren(make("div", { class: "bar" }, make("button", { type: "button", class: "main", id: "go-on", onclick: told }, t("Next"), kbd("submit"))));
  find("feedback").scrollIntoView({ block: "nearest" });
}

function disagree() {
  find("dispute-text").value = "";
  find("dispute").showModal();
}

async function sendDispute(event) {
  event.preventDefault();
  const { token, note } = current.assignment;
  try {
    await send("POST", `/api/v1/assignments/${token}/dispute`, { text: find("dispute-text").value }, about.csrf);
    find("dispute").close();
    say(t("Sent. You find the reply in your history."));
    if (note) next();
  } catch (error) {
    if (noSession(error)) ended(error.status); else say(t("Not sent: {why}", { why: error.message }));
  }
}

function clear() {
  current = null;
  find("feedback").hidden = true;
  stage.hidden = verdict.hidden = true;
  stage.dataset.shown = "nothing";
  find("responses").replaceChildren();
}

// Showing an item

function show(assignment) {
  const draft = keptDraft(assignment.token) || assignment.draft || {};
  if (talk) talk.hide();
  turn++;
  current = {
    assignment, seen: 0, since: performance.now(),
    answer: { choice: draft.choice || "", strength: draft.strength || 0, ranking: draft.ranking || [], ratings: { ...(draft.ratings || {}) },
      flags: [...(draft.flags || [])], rationale: draft.rationale || "", edits: { ...(draft.edits || {}) } },
    ranks: {}, scale: 0, editing: about.kind === "edit" ? "first" : "",
  };
  current.answer.ranking.forEach((group, rank) => group.forEach((place) => { current.ranks[place] = rank + 1; }));
  differing = flagging = false;
  find("feedback").hidden = find("read").hidden = true;
  const practice = assignment.stage === "practice";
  find("before-work").hidden = !assignment.stage;
  find("before-work").textContent = practice ? t("Practice: after you answer, you see the known answer.") : t("Qualification: these answers decide whether you can start the work.");
  find("note").hidden = !assignment.note;
  find("note-text").textContent = assignment.note;
  find("nothing").hidden = find("away").hidden = true;
  stage.hidden = verdict.hidden = false;
  texts.images = assignment.images;
  find("prompt").replaceChildren(...assignment.prompt.map((turn) =>
    make("div", { class: `turn ${turn.role}` }, make("p", { class: "kind" }, ROLES[turn.role] || turn.role), text(turn.html, turn.source))));
  const count = assignment.sources.length;
  questions.begin(assignment.sources, draft, assignment.images);
  suggest(assignment.suggestion);
  find("responses").replaceChildren(...assignment.sources.map((source, place) => response(assignment, place, count)));
  find("rationale").value = current.answer.rationale;
  find("rationale-box").hidden = !current.answer.rationale;
  flags();
  views();
  bar();
  mark();
  window.scrollTo(0, 0);
  stage.dataset.shown = String(++countShown);
}

function response(assignment, place, count) {
  const name = count === 1 ? t("Response") : t("Response {n}", { n: place + 1 });
  const head = make("header", {}, make("span", { class: "kind" }, name), make("span", { class: "mark" }));
  const body = about.kind === "clip" ? clip(assignment.sources[place], name) : questions.text(place) || text(assignment.responses[place], assignment.sources[place]);
  const card = make("article", { class: "response", "data-place": place, "aria-label": name }, head, body, ...questions.ofReply(place));
  if (PAIR && EDITS) head.append(make("button", { type: "button", class: "quiet small", "aria-label": t("Rewrite response {n}", { n: place + 1 }), onclick: () => edit(SIDES[place]) }, t("Rewrite")));
  if (about.kind === "rank") rankable(card, head, place, count);
  if (about.kind === "best_worst") extreme(head, place);
  return card;
}

function clip(address, name) {
  const film = make("video", { src: address, preload: "auto", loop: true, playsinline: true, controls: true, "aria-label": name });
  film.muted = true;
  film.addEventListener("error", () => film.replaceWith(make("img", { src: address, alt: name })), { once: true });
  return film;
}

function flags() {
  find("flags").replaceChildren(...about.flags.map((flag, index) => make("button", {
    type: "button", dir: "auto", "aria-pressed": String(current.answer.flags.includes(flag)),
    onclick: () => toggleFlag(index),
  }, flag, flagging && index < 9 ? make("kbd", {}, String(index + 1)) : null)));
}

function toggleFlag(index) {
  const flag = about.flags[index];
  if (!flag) return;
  const chosen = current.answer.flags;
  current.answer.flags = chosen.includes(flag) ? chosen.filter((name) => name !== flag) : [...chosen, flag];
  flagging = false;
  flags();
  draft();
}

// The row of answers

function options() {
  const levels = Object.entries(LEVELS[about.strength]).map(([level, name]) => [about.strength ? Number(level) : 0, name]);
  const side = (choice, place) => levels.map(([level, name]) => ({ choice, level, says: `${place} ${name}`, side: true }));
  if (PAIR) {
    return [
      ...side("first", 1).reverse(),
      ...(about.tie ? [{ choice: "tie", level: 0, says: t("Equally good"), key: "tie" }] : []),
      ...side("second", 2),
      ...(about.bothBad ? [{ choice: "both_bad", level: 0, says: t("Both bad"), key: "both_bad", apart: true }] : []),
      ...(about.kind === "clip" ? [{ choice: "cant_tell", level: 0, says: t("Can’t tell"), key: "cant_tell" }] : []),
    ];
  }
  if (about.kind === "binary") return [{ choice: "good", level: 0, says: t("Good"), key: "good", side: true }, { choice: "bad", level: 0, says: t("Bad"), key: "bad", side: true }];
  if (about.kind === "edit") return [{ choice: "good", level: 0, says: t("Good as it is"), key: "fine" }];
  if (about.kind === "rank" || about.kind === "best_worst") return about.bothBad ? [{ choice: "both_bad", level: 0, says: t("All bad"), key: "both_bad" }] : [];
  return [];
}

function keyFor(option) {
  if (option.key) return option.key;
  if (!about.strength || option.level === USUAL[about.strength]) return option.choice;
  if (option.level === about.strength) return `${option.choice}_much`;
  return null;
}

function bar() {
  const row = make("div", { class: "bar" });
  if (about.kind === "rate") row.append(make("div", { class: "scales" }, ...about.scales.map((scale, index) => scaleRow(scale, index))));
  for (const option of options()) {
    const key = keyFor(option);
    row.append(make("button", {
      type: "button", "data-choice": option.choice, "data-level": option.level, "aria-pressed": "false",
      class: [option.side ? "side" : "", option.apart ? "apart" : ""].join(" "), onclick: () => choose(option.choice, option.level),
    }, option.says, key ? kbd(key) : null));
  }
  row.append(
    ...(current.assignment.note ? [] : [make("button", { type: "button", class: "quiet", onclick: skip }, t("Skip"), kbd("skip"))]),
    make("button", { type: "button", class: "main", id: "submit", onclick: submit }, t("Submit"), kbd("submit")),
  );
  verdict.replaceChildren(row);
}

function scaleRow(scale, index) {
  const row = make("div", { class: "scale", role: "group", "aria-label": scale.name, "data-scale": index }, make("span", { class: "name", dir: "auto" }, scale.name));
  for (let level = 1; level <= scale.levels; level++) {
    row.append(make("button", { type: "button", "data-level": level, "aria-pressed": "false", "aria-label": t("{scale} {n} of {all}", { scale: scale.name, n: level, all: scale.levels }),
      onclick: () => rate(index, level) }, String(level)));
  }
  return row;
}

function rate(index, level) {
  current.answer.ratings[about.scales[index].name] = level;
  current.answer.choice = "rated";
  current.scale = Math.min(index + 1, about.scales.length - 1);
  mark();
  draft();
}

function choose(choice, level, atOnce = about.atOnce) {
  if (!current) return;
  const answer = current.answer;
  const sided = choice === "first" || choice === "second";
  if (level === undefined) {
    level = sided ? USUAL[about.strength] : 0;
    if (sided && about.strength && answer.choice === choice) level = (answer.strength % about.strength) + 1;
  }
  answer.choice = choice;
  answer.strength = sided && about.strength ? level : 0;
  if (choice === "both_bad" && (about.kind === "rank" || about.kind === "best_worst")) { current.ranks = {}; answer.ranking = []; }
  mark();
  draft();
  if (atOnce && !["rank", "best_worst", "rate"].includes(about.kind) && !questions.any) submit();
}

function step(direction) {
  const line = options().filter((option) => ["first", "tie", "second"].includes(option.choice));
  const at = line.findIndex((option) => option.choice === current.answer.choice && option.level === current.answer.strength);
  const middle = line.findIndex((option) => option.choice === "second");
  let to = at < 0 ? (direction < 0 ? middle - (about.tie ? 2 : 1) : middle) : at + direction;
  to = Math.max(0, Math.min(line.length - 1, to));
  choose(line[to].choice, line[to].level);
}

// What is chosen, on the page
function mark() {
  const { answer } = current;
  for (const button of verdict.querySelectorAll("[data-choice]")) {
    const on = button.dataset.choice === answer.choice && Number(button.dataset.level) === (answer.strength || 0);
    button.setAttribute("aria-pressed", String(on));
  }
  for (const row of verdict.querySelectorAll("[data-scale]")) {
    const index = Number(row.dataset.scale), scale = about.scales[index];
    row.classList.toggle("at", index === current.scale);
    for (const button of row.querySelectorAll("button")) button.setAttribute("aria-pressed", String(Number(button.dataset.level) === answer.ratings[scale.name]));
  }
  const cards = [...find("responses").children];
  for (const card of cards) {
    const place = Number(card.dataset.place);
    const chosen = PAIR && answer.choice === (place ? "second" : "first");
    const passed = PAIR && (answer.choice === (place ? "first" : "second"));
    card.classList.toggle("chosen", chosen);
    card.classList.toggle("passed", passed);
    if (PAIR) card.querySelector(".mark").textContent = chosen ? `✓ ${LEVELS[about.strength][answer.strength || 1]}` : answer.choice === "tie" ? `= ${t("equally good")}` : answer.choice === "both_bad" ? `✗ ${t("bad")}` : "";
    if (about.kind === "rank") markRank(card, place);
    if (about.kind === "best_worst") markExtreme(card, place);
  }
  editBox();
  const submitButton = find("submit");
  if (submitButton) submitButton.disabled = !complete();
}

function complete() {
  if (!current || questions.missing()) return false;
  const { answer } = current;
  if (about.kind === "rate") return about.scales.every((scale) => answer.ratings[scale.name]);
  if (about.kind === "rank") return answer.choice === "both_bad" || Object.keys(current.ranks).length >= 1;
  if (about.kind === "best_worst") return answer.choice === "both_bad" || answer.choice === "ranking";
  if (about.kind === "edit") return answer.choice === "good" || Boolean(rewritten("first"));
  return Boolean(answer.choice);
}

// A better reply belongs to the side it was opened from, and goes with that side only. Of a text that is shown it is none.

function side() {
  if (about.kind === "edit") return "first";
  return EDITS && SIDES.includes(current.answer.choice) ? current.answer.choice : "";
}

function sourceOf(of) { return current.assignment.sources[SIDES.indexOf(of)]; }

function rewritten(of) {
  const written = of && current.answer.edits[of];
  return written && written.trim() && !current.assignment.sources.some((source) => sameText(source, written)) ? written : "";
}

// The field of the side that is chosen, where it was opened or has a rewrite.
function editBox() {
  const of = side(), field = find("edited");
  const other = SIDES.find((slot) => slot !== of && rewritten(slot));
  find("edit-box").hidden = !(of && (current.editing === of || rewritten(of)));
  find("edit-title").textContent = PAIR && of ? t("A better reply, from response {n}", { n: SIDES.indexOf(of) + 1 }) : t("A better reply");
  const text = of ? current.answer.edits[of] ?? sourceOf(of) : "";
  if (!sameText(field.value, text)) field.value = text;
  find("edit-aside").hidden = !other;
  if (other) find("edit-aside").textContent = t("Your rewrite of response {n} is kept aside: it counts only if you choose that response.", { n: SIDES.indexOf(other) + 1 });
}

// Ranking: a digit gives the reply that has the focus a rank, the same rank twice is a tie, dragging ranks all in their new order.

function rankable(card, head, place, count) {
  card.tabIndex = 0;
  head.draggable = true;  // by its head, so that its text can be selected
  head.prepend(make("span", { class: "rank-place", "aria-live": "polite" }, "–"));
  const places = make("span", { class: "chips" });
  for (let rank = 1; rank <= count; rank++) places.append(make("button", { type: "button", tabindex: "-1", "aria-label": t("Rank {n}", { n: rank }), onclick: () => setRank(place, rank) }, String(rank)));
  head.append(places);
  head.addEventListener("dragstart", (event) => {
    event.dataTransfer.setData("text/plain", String(place));
    event.dataTransfer.setDragImage(card, 20, 20);
    card.classList.add("dragged");
  });
  head.addEventListener("dragend", () => card.classList.remove("dragged"));
  card.addEventListener("dragover", (event) => { event.preventDefault(); card.classList.add("over"); });
  card.addEventListener("dragleave", () => card.classList.remove("over"));
  card.addEventListener("drop", (event) => {
    event.preventDefault();
    card.classList.remove("over");
    const moved = find("responses").querySelector(`[data-place="${Number(event.dataTransfer.getData("text/plain"))}"]`);
    if (moved && moved !== card) { reorder(moved, card); }
  });
}

function reorder(moved, onto) {
  const cards = [...find("responses").children];
  if (cards.indexOf(moved) < cards.indexOf(onto)) onto.after(moved); else onto.before(moved);
  [...find("responses").children].forEach((card, index) => { current.ranks[Number(card.dataset.place)] = index + 1; });
  ranked();
}

function setRank(place, rank) {
  if (rank === null || current.ranks[place] === rank) delete current.ranks[place];
  else current.ranks[place] = rank;
  ranked();
}

function ranked() {
  const groups = {};
  for (const [place, rank] of Object.entries(current.ranks)) (groups[rank] = groups[rank] || []).push(Number(place));
  current.answer.ranking = Object.keys(groups).map(Number).sort((a, b) => a - b).map((rank) => groups[rank].sort((a, b) => a - b));
  const placed = current.answer.ranking.flat().length; // one alone is the best of them, the others in no order
  current.answer.choice = placed > 1 ? "ranking" : placed ? "best" : "";
  mark();
  draft();
}

function markRank(card, place) {
  const badge = card.querySelector(".rank-place");
  const group = current.answer.ranking.findIndex((places) => places.includes(place));
  const tied = group >= 0 && current.answer.ranking[group].length > 1;
  const best = current.answer.choice === "best";
  badge.textContent = group < 0 ? "–" : best ? t("best") : `${tied ? "=" : ""}${group + 1}`;
  badge.classList.toggle("has", group >= 0);
}

// The best and the worst of several: all others stand between them.

function extreme(head, place) {
  head.append(make("span", { class: "chips" }, ...["best", "worst"].map((end) => make("button", {
    type: "button", "data-end": end, "aria-pressed": "false", "aria-label": end === "best" ? t("Response {n} is the best", { n: place + 1 }) : t("Response {n} is the worst", { n: place + 1 }), onclick: () => setExtreme(end, place) }, end === "best" ? t("Best") : t("Worst")))));
}

function setExtreme(end, place) {
  const { answer, assignment } = current;
  let [best, worst] = extremes();
  if (end === "best") { best = best === place ? null : place; if (worst === best) worst = null; }
  else { worst = worst === place ? null : place; if (worst === best) best = null; }
  const others = assignment.sources.map((_, slot) => slot).filter((slot) => slot !== best && slot !== worst);
  answer.choice = best !== null && worst !== null ? "ranking" : "";
  answer.ranking = answer.choice ? [[best], ...(others.length ? [others] : []), [worst]] : [];
  current.ends = [best, worst];
  mark();
  draft();
}

function extremes() {
  const { answer } = current;
  if (answer.choice === "both_bad") return [null, null];
  if (answer.choice === "ranking") return [answer.ranking[0][0], answer.ranking.at(-1)[0]];
  return current.ends || [null, null];
}

function markExtreme(card, place) {
  const [best, worst] = extremes();
  card.classList.toggle("chosen", place === best);
  card.classList.toggle("worst", place === worst);
  for (const button of card.querySelectorAll("[data-end]")) button.setAttribute("aria-pressed", String(place === (button.dataset.end === "best" ? best : worst)));
  card.querySelector(".mark").textContent = place === best ? `✓ ${t("best")}` : place === worst ? `✗ ${t("worst")}` : "";
}

// What a judge says of the item, where the project shows it.
function suggest(choice) {
  find("suggestion").hidden = !choice;
  if (choice) find("suggestion").textContent = t("An AI judge suggests: {answer}. Decide for yourself.", { answer: CHOICES[choice] || choice });
}

// Giving answers

function body() {
  const { answer } = current;
  const sent = {
    choice: answer.choice, strength: answer.strength, flags: answer.flags, rationale: answer.rationale.trim(),
    duration_ms: Math.round(current.seen + (document.hidden ? 0 : performance.now() - current.since)),
  };
  Object.assign(sent, questions.body());
  if (about.kind === "best_worst" && answer.choice === "ranking") sent.ranking = answer.ranking;
  if (about.kind === "rank" && (answer.choice === "ranking" || answer.choice === "best")) sent.ranking = answer.ranking;
  if (about.kind === "rate") sent.ratings = answer.ratings;
  const written = answer.choice !== "good" && rewritten(side());
  if (written) {
    if (about.kind === "edit") sent.choice = "edited";
    sent.edited = written;
    sent.edited_from = side();
  }
  return sent;
}

function submit() {
  if (!current || undoing || told) return;
  if (!complete()) { say(questions.missing() ? t("Answer first: {question}", { question: questions.missing() }) : about.kind === "best_worst" ? t("Choose the best and the worst.") : about.kind === "rank" ? t("Rank at least two of them.") : about.kind === "rate" ? t("Rate every scale.") : about.kind === "edit" ? t("Change the reply, or say that it is good.") : t("Choose an answer first.")); return; }
  leave("submit", body(), t("Submitted"));
}

function skip() {
  if (!current || undoing || told || current.assignment.note) return;
  leave("skip", { reason: find("rationale").value.trim().slice(0, 2000) }, t("Skipped"));
}

function leave(what, letter, says) {
  stopDraft();
  const { assignment } = current;
  const known = Boolean(assignment.stage);
  const stands = known || (about.reveal && what === "submit");
  if (!stands) past.push({ assignment, draft: draftOf(), what });
  gone.set(assignment.token, what);
  localStorage.removeItem(DRAFT);
  outbox.put(assignment.token, what, letter);
  if (!known) count(what === "submit" ? 1 : 0, -1);
  if (assignment.stage === "practice" && what === "submit") { waitFor(assignment); return; }
  say(says, !stands);
  next();
}

// Who wrote the answers, told after the vote.
function reveal(models) {
  find("revealed").replaceChildren(...models.flatMap((name, place) => [place ? " · " : "", `${t("Response {n} was by", { n: place + 1 })} `, make("strong", { dir: "auto" }, name)]));
  find("revealed").hidden = false;
}

// A chat's message again, for other answers or in other words; these answers are passed over.
function again(now) {
  if (!current || undoing) return;
  talk.then = { message: current.assignment.prompt.at(-1).source, now };
  leave("skip", { reason: now ? "other answers" : "message edited" }, now ? t("Asking for other answers") : t("Edit your message"));
}

// The answer to a practice item is on its way; nothing else is asked until it is known whether it was right.
function waitFor(assignment) {
  verdict.querySelectorAll("button").forEach((button) => { button.disabled = true; });
  told = () => {};
  outbox.flush().then(() => { if (told && find("feedback").hidden && current && current.assignment === assignment && !outbox.has(assignment.token)) next(); });
}

// The item is here still, so it is shown at once; the server is told in its turn, which works without a connection too.
function undo() {
  const last = past[past.length - 1];
  if (undoing || told) return;
  if (!last) { say(t("Nothing to undo on this page; see the history.")); return; }
  if (talk) { undoTurn(last); return; }
  past.pop();
  const { token } = last.assignment;
  gone.delete(token);
  if (!outbox.take(token)) outbox.put(token, "undo");
  count(last.what === "submit" ? -1 : 0, 1);
  if (current) waiting.unshift({ assignment: { ...current.assignment, draft: draftOf() } });
  show({ ...last.assignment, draft: last.draft });
  say(t("Undone"));
}

// A conversation may have gone on from the answer: the server says whether it can be taken back.
async function undoTurn({ assignment: { token } }) {
  if (outbox.has(token)) { say(t("Not undone: the server does not have this answer yet. Try again when it is saved.")); return; }
  undoing = true;
  try {
    const assignment = await send("POST", `/api/v1/assignments/${token}/undo`, undefined, about.csrf);
    past.pop();
    show(assignment);
    say(t("Undone"));
  } catch (error) {
    if (noSession(error)) ended(error.status); else say(t("Not undone: {why}", { why: error.message }));
  } finally {
    undoing = false;
  }
}

function draftOf() {
  const { answer } = current;
  const edits = Object.fromEntries(SIDES.filter(rewritten).map((slot) => [slot, answer.edits[slot]]));
  return { choice: answer.choice, strength: answer.strength, ranking: answer.ranking, ratings: answer.ratings, flags: answer.flags, rationale: answer.rationale, edits, ...questions.body() };
}

function draft() {
  stopDraft();
  const { token } = current.assignment;
  draftTimer = setTimeout(async () => {
    if (!current || current.assignment.token !== token || outbox.has(token)) return;
    keepDraft();
    draftTimer = 0;
    try {
      await send("PUT", `/api/v1/assignments/${token}/draft`, draftOf(), about.csrf);
      if (!draftTimer) localStorage.removeItem(DRAFT);
    } catch (error) { if (noSession(error)) ended(error.status); }
  }, 800);
}

function stopDraft() {
  clearTimeout(draftTimer);
  draftTimer = 0;
}

// A draft that the server may not have: kept in the browser, and used where its item is shown again.

const DRAFT = `prefloop draft ${root} ${about.account}`;

function keepDraft() {
  if (!current) return;
  try { localStorage.setItem(DRAFT, JSON.stringify({ token: current.assignment.token, draft: draftOf() })); } catch { /* private window */ }
}

function keptDraft(token) {
  try {
    const kept = JSON.parse(localStorage.getItem(DRAFT));
    if (!kept || kept.token !== token) return null;
    localStorage.removeItem(DRAFT);
    return kept.draft;
  } catch { return null; }
}

function say(words, undoable = false) {
  toast.replaceChildren(words);
  if (undoable) toast.append(make("button", { type: "button", onclick: undo }, `${t("Undo")} `, kbd("undo")));
  toast.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { toast.hidden = true; }, 6000);
}

// More to say

function openBox(box, field) {
  find(box).hidden = false;
  find(field).focus();
}

// Open the field for a better reply, of the side that is chosen, or of one whose button is pressed.
function edit(of) {
  if (of && of !== current.answer.choice) choose(of, undefined, false);
  if (!side()) { say(t("Choose the better one first, then improve it.")); return; }
  current.editing = side();
  editBox();
  openBox("edit-box", "edited");
}

// Texts as they are to be read, as they were written, or with what differs marked

function views() {
  for (const [name, on] of [["diff", differing], ["written", asWritten]]) {
    const button = document.querySelector(`#views [data-do="${name}"]`);
    if (button) button.setAttribute("aria-pressed", String(on));
  }
}

function toggleDiff() {
  differing = !differing;
  if (differing && !texts.differing(current.assignment.sources)) { differing = false; say(t("These are too long to compare word by word.")); }
  repaint();
}

function toggleWritten() {
  asWritten = !asWritten;
  repaint();
}

function repaint() {
  views();
  if (!current) { if (talk) talk.paint(); return; }
  const { prompt, responses, sources } = current.assignment;
  const both = differing ? texts.differing(sources) : null;
  // Its own texts only: a formula that is drawn has elements of class "text" within it.
  [...find("prompt").querySelectorAll(".turn > .text")].forEach((node, at) => node.replaceWith(text(prompt[at].html, prompt[at].source)));
  for (const card of find("responses").children) {
    const place = Number(card.dataset.place);
    card.querySelector(".text").replaceWith(both ? both[place] : questions.text(place) || text(responses[place], sources[place]));
  }
}

function play() {
  const films = [...find("responses").querySelectorAll("video")];
  const stop = films.some((film) => !film.paused);
  for (const film of films) {
    if (stop) film.pause();
    else { film.currentTime = 0; film.play().catch(() => {}); }
  }
}

function dialog(id) {
  const box = find(id);
  if (box.open) box.close(); else box.showModal();
}

const DO = {
  first: () => choose("first"), second: () => choose("second"),
  first_much: () => choose("first", about.strength || 0), second_much: () => choose("second", about.strength || 0),
  left: () => step(-1), right: () => step(1),
  tie: () => about.tie && choose("tie"), both_bad: () => about.bothBad && choose("both_bad"), cant_tell: () => choose("cant_tell"),
  good: () => choose("good"), bad: () => choose("bad"), fine: () => choose("good"),
  new_chat: () => talk.begin(), submit, skip, undo, edit: () => edit(), play, diff: toggleDiff, written: toggleWritten,
  flags: () => { flagging = !flagging; flags(); },
  rationale: () => openBox("rationale-box", "rationale"),
  mark: () => questions.beginMark(), other_answers: () => again(true), edit_message: () => again(false),
  guidelines: () => dialog("guidelines"), help: () => dialog("help"),
};

function pressed(event) {
  const typing = event.target.matches("textarea, input, select");
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); event.target.blur(); submit(); }
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
  const open = document.querySelector("dialog[open]");
  const key = `${event.shiftKey && event.key.length > 1 ? "Shift+" : ""}${event.shiftKey ? event.key : event.key.length === 1 ? event.key.toLowerCase() : event.key}`;
  const name = keyOf[key];
  if (open) { if (name === "guidelines" || name === "help") { event.preventDefault(); dialog(open.id); } return; }
  if (event.key === "Enter" && event.target.matches("button, a, summary") && !event.target.closest("#verdict")) return;
  if (event.key === "Enter" && event.target.matches("#verdict button:not([data-choice]):not([data-level])")) return;
  if (!find("read").hidden && event.key === "Enter") { event.preventDefault(); haveRead(); return; }
  if (told && !open) { if (event.key === "Enter") { event.preventDefault(); told(); } return; }
  const digit = /^[1-9]$/.test(event.key) ? Number(event.key) : 0;
  if (current && flagging && digit) { event.preventDefault(); toggleFlag(digit - 1); return; }
  if (current && about.kind === "rate" && rateKey(event, digit)) return;
  if (current && about.kind === "best_worst" && extremeKey(event, digit)) return;
  if (current && about.kind === "rank" && rankKey(event, digit)) return;
  if (!name || !DO[name]) return;
  if (!current && !["guidelines", "help", "undo", "new_chat", "written"].includes(name)) return;
  event.preventDefault();
  DO[name]();
}

function rateKey(event, digit) {
  if (digit && digit <= about.scales[current.scale].levels) { event.preventDefault(); rate(current.scale, digit); return true; }
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!move) return false;
  event.preventDefault();
  current.scale = Math.max(0, Math.min(about.scales.length - 1, current.scale + move));
  mark();
  return true;
}

function extremeKey(event, digit) {
  const at = event.code.match(/^Digit([1-9])$/);
  const place = (event.shiftKey && at ? Number(at[1]) : digit) - 1;
  if (!(place >= 0 && place < current.assignment.sources.length)) return false;
  event.preventDefault();
  setExtreme(event.shiftKey ? "worst" : "best", place);
  return true;
}

function rankKey(event, digit) {
  const cards = [...find("responses").children];
  const at = cards.indexOf(document.activeElement);
  const move = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (move) { event.preventDefault(); cards[Math.max(0, Math.min(cards.length - 1, at + move))].focus(); return true; }
  if (digit && digit <= cards.length) {
    event.preventDefault();
    const card = at < 0 ? cards[0] : cards[at];
    setRank(Number(card.dataset.place), digit);
    if (at < 0) card.focus();
    return true;
  }
  if ((event.key === "-" || event.key === "Backspace") && at >= 0) { event.preventDefault(); setRank(Number(cards[at].dataset.place), null); return true; }
  return false;
}

// Wiring

const talk = about.kind === "chat" ? new Talk({ about, outbox, find, text, say, show, clear, ended }) : null;
document.addEventListener("keydown", pressed);
typeset(find("guidelines"));
for (const button of document.querySelectorAll("[data-do]")) button.addEventListener("click", () => { if (current || !button.closest("#stage")) DO[button.dataset.do](); });
for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
for (const node of document.querySelectorAll("kbd[data-key]")) node.textContent = shown(about.keys[node.dataset.key]);
find("keys").replaceChildren(...Object.entries(about.keyNames).flatMap(([name, says]) => [make("dt", {}, kbd(name)), make("dd", {}, t(says))]),
  ...(about.kind === "rank" ? [make("dt", {}, make("kbd", {}, "↑"), " ", make("kbd", {}, "↓")), make("dd", {}, t("move between replies")), make("dt", {}, make("kbd", {}, "1–9")), make("dd", {}, t("its rank; the same rank twice is a tie"))] : []),
  ...(about.kind === "best_worst" ? [make("dt", {}, make("kbd", {}, "1–9")), make("dd", {}, t("the best one")), make("dt", {}, make("kbd", {}, "⇧1–9")), make("dd", {}, t("the worst one"))] : []),
  ...(about.kind === "rate" ? [make("dt", {}, make("kbd", {}, "1–9")), make("dd", {}, t("the level, then the next scale"))] : []));
find("rationale").addEventListener("input", (event) => { current.answer.rationale = event.target.value; draft(); });
find("edited").addEventListener("input", (event) => {
  current.answer.edits[side()] = event.target.value;
  if (about.kind === "edit") current.answer.choice = rewritten("first") ? "edited" : "";
  mark();
  draft();
});
document.addEventListener("visibilitychange", () => {
  if (!current) return;
  if (document.hidden) current.seen += performance.now() - current.since;
  else current.since = performance.now();
});
window.addEventListener("pagehide", () => {
  if (draftTimer) keepDraft();
  // The next item was never seen: give it back.
  for (const { assignment } of waiting)
    send("POST", `/api/v1/assignments/${assignment.token}/return`, undefined, about.csrf, { keepalive: true }).catch(() => {});
});
window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
window.addEventListener("online", () => { outbox.wake(); wake(); });
find("stands").addEventListener("click", disagree);
find("dispute-form").addEventListener("submit", sendDispute);
find("have-read").addEventListener("click", haveRead);
find("load-again").addEventListener("click", () => location.reload());

const taken = sessionStorage.getItem("prefloop undone");
sessionStorage.removeItem("prefloop undone");
const undone = taken ? JSON.parse(taken) : null;
if (undone && undone.project === about.project) { show(undone); prefetch(); } else next();

