// Images in texts: where their marks stand, and enlarged, by keyboard and mouse.

import { t } from "./words.js";

// As `PATTERN` in marks.py.
const MARK = String.raw`!\[((?:[^\[\]\\\n]|\\[\[\]\\])*)\]\(prefloop-image:([0-9]{1,5})x([0-9]{1,5}):([0-9a-f]{64})\)`;
export const marks = () => new RegExp(MARK, "g");
const WIDTH = 640, HEIGHT = 384;  // as in render.py

function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// An image where its mark stands; as `_picture` in render.py. found: a match of `marks`; address: of the item's images.
export function picture(found, address, odd) {
  const [, alt, wide, high, sha256] = found;
  const says = alt.replace(/\\([\[\]\\])/g, "$1").replace(odd, (one) => `⟨U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}⟩`);
  const scale = Math.min(1, WIDTH / Math.max(1, wide), HEIGHT / Math.max(1, high));
  const img = element("img", { src: `${address}/${sha256}`, alt: says, loading: "lazy", decoding: "async",
    width: Math.max(1, Math.round(wide * scale)), height: Math.max(1, Math.round(high * scale)) });
  const figure = element("figure", { class: "picture" }, img, ...(says ? [element("figcaption", { dir: "auto" }, says)] : []));
  enlargeable(figure);
  return figure;
}

// A text as what stands between its images, each by `letters`, and these.
export function withPictures(text, address, odd, letters) {
  const nodes = [];
  let end = 0;
  for (const found of text.matchAll(marks())) {
    nodes.push(...letters(text.slice(end, found.index)), picture(found, address, odd));
    end = found.index + found[0].length;
  }
  return [...nodes, ...letters(text.slice(end))];
}

// Every image in a piece of the page becomes a button that enlarges it.
export function enlargeable(within) {
  for (const figure of within.matches(".picture") ? [within] : within.querySelectorAll(".picture")) {
    const img = figure.querySelector("img");
    if (!img || img.parentElement !== figure) continue;
    const says = figure.querySelector("figcaption") ? img.alt : t("Image without a description");
    img.alt = says;
    img.draggable = false;
    const button = element("button", { type: "button", "aria-label": t("Enlarge the image: {alt}", { alt: says }) });
    img.replaceWith(button);
    button.append(img);
    button.addEventListener("click", () => enlarge(img));
    img.addEventListener("error", () => { button.disabled = true; figure.classList.add("missing"); }, { once: true });
  }
}

let box = null;

// The enlarged image: first as large as the window, then by steps. The browser closes it with Escape, and puts the focus back.
function enlarge(img) {
  box = box || made();
  box.shown.src = img.src;
  box.shown.alt = img.alt;
  box.title.textContent = img.alt;
  box.dialog.showModal();
  scale(0);
  box.sheet.focus();
}

const STEP = 1.5, LEAST = 0.1, MOST = 8;

// scale: of the image's own pixels; 0 fits it into the window.
function scale(to) {
  const { shown, sheet, told } = box;
  box.at = to && Math.min(MOST, Math.max(LEAST, to));
  sheet.classList.toggle("fits", !to);
  shown.style.width = to ? `${Math.round(shown.naturalWidth * box.at)}px` : "";
  told.textContent = to ? `${Math.round(100 * box.at)} %` : t("whole image");
}

// How large it is now, to go on from.
function now() { return box.at || box.shown.clientWidth / (box.shown.naturalWidth || 1) || 1; }

function made() {
  const title = element("h2", { id: "zoom-title", dir: "auto" });
  const told = element("output", {}), shown = element("img"), sheet = element("div", { class: "sheet", tabindex: "0", role: "group", "aria-labelledby": "zoom-title" }, shown);
  const control = (says, key, work) => {
    const button = element("button", { type: "button", class: "quiet" }, `${says} `, element("kbd", {}, key));
    button.addEventListener("click", work);
    return button;
  };
  const dialog = element("dialog", { id: "zoom", "aria-labelledby": "zoom-title" },
    element("header", {}, title, element("div", { class: "tools" }, told, control(t("Smaller"), "-", () => scale(now() / STEP)), control(t("Larger"), "+", () => scale(now() * STEP)),
      control(t("Whole"), "0", () => scale(0)), control(t("Close"), "Esc", () => dialog.close()))), sheet);
  const keys = { "+": () => scale(now() * STEP), "=": () => scale(now() * STEP), "-": () => scale(now() / STEP), 0: () => scale(0) };
  dialog.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") event.stopPropagation();  // the page's own keys answer nothing here
    if (event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  shown.addEventListener("click", () => scale(box.at ? 0 : Math.max(1, now() * 2)));
  shown.draggable = false;
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  document.body.append(dialog);
  return { dialog, title, told, shown, sheet, at: 0 };
}

// Pages that are made by the server hold their images already.
enlargeable(document.body);
