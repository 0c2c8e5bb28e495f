// The texts of scripts in the language of the page. A message is its English text; {name} is the place of a value.

const { lang } = document.documentElement;
const held = document.getElementById("words");
const texts = held ? JSON.parse(held.textContent) : {};
const FORMS = { 1: ["other"], 2: ["one", "other"], 6: ["zero", "one", "two", "few", "many", "other"] };
// Digits as on the keys of the page.
const numbers = new Intl.NumberFormat(`${lang}-u-nu-latn`), plural = new Intl.PluralRules(lang);

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => {
  const value = values[name];
  return value === undefined ? whole : typeof value === "number" ? numbers.format(value) : value;
});

export const t = (message, values = {}) => fill(texts[message] || message, values);

export function n(one, many, count, values = {}) {
  const forms = texts[one] || [one, many];
  const at = FORMS[forms.length].indexOf(plural.select(count));
  return fill(forms[at < 0 ? forms.length - 1 : at], { n: count, ...values });
}

// A moment where the reader is, in their language.
export function moments(within = document) {
  const format = new Intl.DateTimeFormat(`${lang}-u-nu-latn`, { dateStyle: "medium", timeStyle: "short" });
  for (const node of within.querySelectorAll("time[datetime]")) {
    node.title = node.textContent;
    node.textContent = format.format(new Date(node.dateTime));
  }
}
