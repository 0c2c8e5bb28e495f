// Elements, and the texts in them: as they are to be read, as they were written, and with what differs marked.

import { difference } from "./diff.js";
import { enlargeable, withPictures } from "./pictures.js";

export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}

// Whether two replies differ in nothing but line ends and the space around them (as `same_text` in answers.py).
export function sameText(one, other) {
  const plain = (text) => text.replace(/\r\n?/g, "\n").trim();
  return plain(one) === plain(other);
}

const KATEX = new URL("vendor/katex/", import.meta.url);
// `strict`: what LaTeX itself would not read is no reason to write to the console. The rest bounds what a formula may take.
const LATEX = { throwOnError: true, trust: false, strict: "ignore", maxSize: 20, maxExpand: 500 };
let katex = null;

// Draw the formulas in a piece of the page. One that cannot be read stays as it was written.
export async function typeset(within) {
  const formulas = [...within.querySelectorAll(".math:not(.drawn)")];
  if (!formulas.length) return;
  if (!katex) {
    document.head.append(make("link", { rel: "stylesheet", href: new URL("katex.min.css", KATEX).href }));
    katex = import(new URL("katex.min.js", KATEX).href).then(() => self.katex);
  }
  const { render } = await katex.catch(() => { katex = null; return {}; });
  for (const node of render ? formulas : []) {
    const latex = node.textContent, drawn = document.createElement("span");
    try {
      render(latex.replace(/^(\\\(|\\\[|\$\$?)|(\\\)|\\\]|\$\$?)$/g, ""), drawn, { ...LATEX, displayMode: node.classList.contains("display") });
      // Colours of a formula's own could hide it, in the dark or anywhere.
      for (const element of drawn.querySelectorAll("[style], [mathcolor], [mathbackground]")) {
        element.style.color = element.style.backgroundColor = element.style.borderColor = "";
        element.removeAttribute("mathcolor");
        element.removeAttribute("mathbackground");
      }
      node.replaceChildren(drawn);
      node.classList.add("drawn");
    } catch { /* shown as it is */ }
  }
}

export class Texts {
  // render: `plain` or `markdown`. odd: the characters that are shown by number, a regular expression of render.py.
  constructor({ render, odd }) {
    this.render = render;
    this.odd = new RegExp(odd, "gu");
    this.images = "";  // address of the images of the item that is shown
  }

  // As it is to be read: escaped or cleaned by the server, see render.py.
  read(html) {
    const node = make("div", { class: `text ${this.render}`, dir: "auto" });
    node.innerHTML = html;
    enlargeable(node);
    typeset(node);
    return node;
  }

  // As it was written, letter by letter.
  written(source) { return make("div", { class: "text plain", dir: "auto" }, ...this.letters(source)); }

  // Two texts as they were written, what only one of them has marked; null where they are too long to compare.
  differing(sources) {
    const both = difference(...sources);
    return both && both.map((parts, place) => make("div", { class: "text plain", dir: "auto" },
      ...parts.flatMap(([words, shared]) => (shared ? this.letters(words) : make(place ? "ins" : "del", {}, ...this.letters(words))))));
  }

  // A text with its images.
  letters(text) { return this.images ? withPictures(text, this.images, this.odd, (part) => this.plain(part)) : this.plain(text); }

  // A text whose invisible characters, and those that turn the direction of writing, are shown by their number.
  plain(text) {
    const nodes = [];
    let end = 0;
    for (const match of text.replace(/\r\n/g, "\n").matchAll(this.odd)) {
      nodes.push(match.input.slice(end, match.index), make("span", { class: "odd" }, `U+${match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`));
      end = match.index + match[0].length;
    }
    nodes.push(text.replace(/\r\n/g, "\n").slice(end));
    return nodes;
  }
}
