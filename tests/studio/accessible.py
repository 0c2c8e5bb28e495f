"""What WCAG 2.2 asks at levels A and AA, as far as a program can see it, checked in the page itself: no library, nothing from elsewhere.

`problems(page)` looks at the page as it stands: names and roles of controls (1.1.1, 1.3.1, 2.4.6, 4.1.2), labels within names (2.5.3), headings and landmarks
(1.3.1, 2.4.1), language and title (3.1.1, 2.4.2), contrast of text and of what shows a control (1.4.3, 1.4.11), target size (2.5.8), live regions
(4.1.3), reflow (1.4.10). `keyboard_problems(page)` presses Tab through it: everything is reached, the focus is seen and not covered, nothing
traps it (2.1.1, 2.1.2, 2.4.3, 2.4.7, 2.4.11).
"""

from typing import Any

_LOOK = r"""
() => {
  const found = [];
  const say = (rule, node, why) => found.push(`${rule}: ${why} <${node.tagName.toLowerCase()}${node.id ? "#" + node.id : ""}${node.className && typeof node.className === "string" ? "." + node.className.trim().replace(/\s+/g, ".") : ""}> ${(node.textContent || "").trim().slice(0, 40)}`);
  const open = document.querySelector("dialog[open]");
  const root = open || document.body;
  const visible = (node) => node.checkVisibility({ opacityProperty: true, visibilityProperty: true }) && node.getClientRects().length > 0;
  const all = (selector) => [...root.querySelectorAll(selector)].filter(visible);
  // Language, title, landmarks, headings
  if (!/^[a-z]{2}/.test(document.documentElement.lang)) say("3.1.1", document.documentElement, "no language");
  if (!document.title.trim()) say("2.4.2", document.documentElement, "no title");
  if (document.querySelectorAll("main").length !== 1) say("1.3.1", document.body, "not one main");
  const jump = document.querySelector("a[href^='#']");
  if (!jump || !document.querySelector(jump.getAttribute("href"))) say("2.4.1", document.body, "no link past the navigation");
  if (!open) {
    const headings = all("h1, h2, h3, h4, h5, h6").filter((node) => !node.closest(".text"));
    if (headings.filter((node) => node.tagName === "H1").length !== 1) say("1.3.1", document.body, "not one h1");
    let before = 0;
    for (const node of headings) {
      const level = Number(node.tagName[1]);
      if (level > before + 1) say("1.3.1", node, `heading jumps from ${before} to ${level}`);
      if (!node.textContent.trim()) say("2.4.6", node, "an empty heading");
      before = level;
    }
  }
  const ids = [...document.querySelectorAll("[id]")].map((node) => node.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) say("4.1.2", document.getElementById(id), `id ${id} twice`);
  // Names and roles
  const textOf = (id) => id.split(/\s+/).map((each) => document.getElementById(each)?.textContent ?? "").join(" ");
  const inner = (node) => [...node.childNodes].map((child) => child.nodeType === 3 ? child.data : child.nodeType !== 1 || child.getAttribute("aria-hidden") === "true" ? "" : child.alt ?? child.getAttribute("aria-label") ?? inner(child)).join(" ");
  const name = (node) => {
    if (node.hasAttribute("aria-labelledby")) return textOf(node.getAttribute("aria-labelledby"));
    if (node.hasAttribute("aria-label")) return node.getAttribute("aria-label");
    if (node.matches("img, area")) return node.getAttribute("alt") ?? "";
    if (node.labels && node.labels.length) return [...node.labels].map(inner).join(" ");
    if (node.matches("input, select, textarea")) return node.title || "";
    return inner(node) || node.title || "";
  };
  const controls = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex], [role=button], video";
  for (const node of all(controls)) {
    const called = name(node).replace(/\s+/g, " ").trim();
    if (!called) say("4.1.2", node, "no name");
    const shown = [...node.childNodes].filter((child) => child.nodeType === 3).map((child) => child.data).join(" ").replace(/[^\p{L}\p{N} ]/gu, "").replace(/\s+/g, " ").trim().toLowerCase();
    if (node.hasAttribute("aria-label") && shown && !called.toLowerCase().includes(shown)) say("2.5.3", node, `its name ${called} lacks what it shows`);
    if (node.tabIndex >= 0 && node.matches("div, span, p, li, td") && !node.getAttribute("role")) say("4.1.2", node, "in the tab order without a role");
    if (node.tabIndex > 0) say("2.4.3", node, "a tabindex above 0");
  }
  for (const node of all("[onclick], [aria-pressed], [aria-checked]")) if (!node.matches("button, [role]")) say("4.1.2", node, "acts, and has no role");
  for (const node of all("img, svg")) if (node.tagName === "IMG" ? !node.hasAttribute("alt") : !node.closest("[aria-hidden=true], [role=img][aria-label]")) say("1.1.1", node, "no text for a picture");
  for (const node of all("table")) if (![...node.querySelectorAll("th")].length) say("1.3.1", node, "a table without headers");
  for (const node of all("th")) if (!node.textContent.trim()) say("1.3.1", node, "an empty header");
  for (const node of all("section[aria-label], nav, [role=group], [role=log]")) if (!name(node).trim() && !node.getAttribute("aria-label")) say("1.3.1", node, "a region without a name");
  for (const node of all("ul, ol")) if ([...node.children].some((child) => !child.matches("li, script, template"))) say("1.3.1", node, "a list with something else in it");
  for (const node of all("dl")) if ([...node.children].some((child) => !child.matches("dt, dd, div"))) say("1.3.1", node, "a list with something else in it");
  // Live regions: what the page says by itself is said aloud
  for (const id of ["toast", "saved", "told", "imported", "invited", "token-made", "writing"]) {
    const node = document.getElementById(id);
    if (node && !node.closest("[aria-live], [role=status], [role=alert], [role=log]")) say("4.1.3", node, "not a live region");
  }
  for (const node of all(".error")) if (!node.closest("[role=alert], [aria-live]")) say("4.1.3", node, "an error that is not said aloud");
  // Contrast, from computed colours: text over what is painted behind it
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 1;
  const paint = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
  const rgba = (colour) => {
    paint.clearRect(0, 0, 1, 1);
    paint.fillStyle = colour;
    paint.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data;
    return [r, g, b, a / 255];
  };
  const over = (top, under) => top.slice(0, 3).map((each, i) => each * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = (node) => {
    const layers = [];
    for (let each = node; each; each = each.parentElement) layers.push(rgba(getComputedStyle(each).backgroundColor));
    return layers.reverse().reduce((under, layer) => over(layer, under), [255, 255, 255, 1]);
  };
  const light = (colour) => colour.slice(0, 3).map((each) => { const c = each / 255; return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; })
    .reduce((sum, each, i) => sum + each * [0.2126, 0.7152, 0.0722][i], 0);
  const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const faded = (node) => { let opacity = 1; for (let each = node; each; each = each.parentElement) opacity *= Number(getComputedStyle(each).opacity); return opacity; };
  for (const node of all("*")) {
    if (node.closest("svg") || node.matches("script, style, option") || node.disabled || node.closest(":disabled")) continue;
    if (![...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim()) && !(node.matches("input, textarea, select") && (node.value || node.placeholder))) continue;
    const style = getComputedStyle(node), ground = behind(node);
    const ink = rgba(node.matches("input, textarea") && !node.value ? getComputedStyle(node, "::placeholder").color : style.color);
    const ratio = contrast(over([...ink.slice(0, 3), ink[3] * faded(node)], ground), ground);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
    if (ratio < (large ? 3 : 4.5) - 0.005) say("1.4.3", node, `contrast ${ratio.toFixed(2)}`);
  }
  for (const node of all("input:not([type=hidden]):not([type=checkbox]):not([type=radio]):not([type=file]), select, textarea")) {
    const ground = behind(node.parentElement), edge = over(rgba(getComputedStyle(node).borderTopColor), ground);
    if (Math.max(contrast(edge, ground), contrast(behind(node), ground)) < 3) say("1.4.11", node, `edge ${contrast(edge, ground).toFixed(2)}`);
  }
  // Target size: 24 by 24, or alone enough that circles of 24 around the centres do not meet; links within a sentence excepted
  const targets = all("a[href], button, input:not([type=hidden]), select, textarea, summary").map((node) => {
    const label = node.matches("[type=checkbox], [type=radio]") && node.closest("label");
    return { node, box: (label || node).getBoundingClientRect() };
  });
  for (const { node, box } of targets) {
    const inText = node.matches("a") && getComputedStyle(node).display === "inline" && [...node.parentElement.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (inText || (box.width >= 23.9 && box.height >= 23.9)) continue;
    const centre = [box.x + box.width / 2, box.y + box.height / 2];
    const near = targets.some((other) => other.node !== node && !(other.box.x > centre[0] + 12 || other.box.right < centre[0] - 12 || other.box.y > centre[1] + 12 || other.box.bottom < centre[1] - 12));
    if (near) say("2.5.8", node, `target ${box.width.toFixed(0)} by ${box.height.toFixed(0)}`);
  }
  // Reflow: nothing asks to be scrolled sideways but tables and code, which may
  if (document.documentElement.scrollWidth > innerWidth + 1) {
    const wide = all("*").find((node) => node.getBoundingClientRect().right > innerWidth + 1 && !node.closest(".flush, .scroll, pre"));
    say("1.4.10", wide || document.body, `${document.documentElement.scrollWidth} wide in ${innerWidth}`);
  }
  return [...new Set(found)];
}
"""
_FOCUSED = r"""
() => {
  const node = document.activeElement;
  if (!node || node === document.body) return null;
  if (!window.prefloopSeen) window.prefloopSeen = new Map();
  if (!prefloopSeen.has(node)) prefloopSeen.set(node, prefloopSeen.size);
  const style = getComputedStyle(node), box = node.getBoundingClientRect();
  const seen = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const x = Math.min(innerWidth - 1, Math.max(0, box.x + box.width / 2)), y = Math.min(innerHeight - 1, Math.max(0, box.y + box.height / 2));
  const top = document.elementsFromPoint(x, y)[0];
  const covered = box.height < innerHeight / 2 && !(top && (node.contains(top) || top.contains(node) || top.closest("label")?.contains(node)));
  return { number: prefloopSeen.get(node), what: `${node.tagName.toLowerCase()}#${node.id}.${node.className} ${(node.textContent || node.name || "").trim().slice(0, 30)}`, seen, covered };
}
"""
_REACHABLE = r"""
() => {
  const root = document.querySelector("dialog[open]") || document;
  const names = new Set();
  const nodes = [...root.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea, summary")]
    .filter((node) => node.checkVisibility({ visibilityProperty: true }) && !node.disabled && node.tabIndex >= 0)
    .filter((node) => !(node.type === "radio" && (names.has(node.name) || !names.add(node.name))));
  return nodes.length;
}
"""


def problems(page: Any) -> list[str]:
    """What is wrong with the page as it stands; empty if nothing is."""
    found: list[str] = page.evaluate(_LOOK)
    return found


def keyboard_problems(page: Any, most: int = 150) -> list[str]:
    """What is wrong with going through the page by Tab: what is not reached, not seen, or not left."""
    wanted = page.evaluate(_REACHABLE)
    page.evaluate(
        "() => { window.prefloopSeen = new Map(); document.activeElement?.blur(); window.scrollTo(0, 0); }"
    )
    wrong: list[str] = []
    last, left, stays = None, 0, 0
    for _ in range(most):
        page.keyboard.press("Tab")
        at = page.evaluate(_FOCUSED)
        if at is None:
            left += 1
            if left == 2:
                break
            last = None
            continue  # out of the page, and in again at its beginning
        stays = stays + 1 if at["number"] == last else 0
        # The buttons of a video are within it: the focus is on the video while one goes through them.
        if stays > (20 if at["what"].startswith("video") else 0):
            wrong.append(f"2.1.2: the focus is caught in {at['what']}")
            break
        last = at["number"]
        if not at["seen"] and not stays:
            wrong.append(f"2.4.7: no mark on {at['what']}")
        if at["covered"]:
            wrong.append(f"2.4.11: covered {at['what']}")
        if left and at["number"] == 0:
            break  # round again
    reached = page.evaluate("window.prefloopSeen.size")
    if reached < wanted:
        wrong.append(f"2.1.1: {wanted} controls, and Tab reaches {reached}")
    return list(dict.fromkeys(wrong))


def moves(page: Any) -> list[str]:
    """What moves by itself or glides although less motion is asked for (2.3.3)."""
    return page.evaluate(
        r"""() => [...document.querySelectorAll("*")].flatMap((node) => {
          const style = getComputedStyle(node);
          const glides = style.transitionDuration.split(",").some((each) => parseFloat(each) > 0.01);
          const moves = style.animationName !== "none" && parseFloat(style.animationDuration) > 0.01;
          return glides || moves ? [`${node.tagName}.${node.className}`] : [];
        })"""
    )
