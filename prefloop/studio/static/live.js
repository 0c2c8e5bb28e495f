// Keeps a part of a page as the server has it, while the page is looked at. The part is the server's own HTML, escaped there.

const place = document.getElementById("live");
const SECONDS = 3, FOCUSABLE = "a, summary, pre";

async function renew() {
  if (document.hidden || getSelection().toString()) return;
  const answer = await fetch(place.dataset.live, { headers: { Accept: "text/html" } });
  if (answer.status === 401 || answer.redirected) { location.reload(); return; }
  if (!answer.ok) return;
  const html = await answer.text();
  const open = new Map([...place.querySelectorAll("details[data-keep]")].map((each) => [each.dataset.keep, each.open]));
  if (html === place.dataset.was) return;
  place.dataset.was = html;
  const at = [...place.querySelectorAll(FOCUSABLE)].indexOf(document.activeElement);
  place.innerHTML = html;
  for (const each of place.querySelectorAll("details[data-keep]")) if (open.has(each.dataset.keep)) each.open = open.get(each.dataset.keep);
  if (at >= 0) place.querySelectorAll(FOCUSABLE)[at]?.focus({ preventScroll: true });
}

if (place) setInterval(() => renew().catch(() => { /* the server is away: the next time may do */ }), SECONDS * 1000);
