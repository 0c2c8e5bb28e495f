// Which words two texts do not share: longest common subsequence over words, images and the spaces between them.

const MOST = 1500;

export function words(text) {
  return text.match(/!\[(?:[^\[\]\\\n]|\\[\[\]\\])*\]\(prefloop-image:[0-9a-fx:]+\)|\s+|[\p{L}\p{N}_]+|[^\s\p{L}\p{N}_]/gu) || [];
}

// [[text, shared]] for each of both; null where the texts are too long to compare at once.
export function difference(a, b) {
  const left = words(a), right = words(b);
  if (left.length > MOST || right.length > MOST) return null;
  const width = right.length + 1;
  const longest = new Uint16Array((left.length + 1) * width);
  for (let i = left.length - 1; i >= 0; i--) {
    for (let j = right.length - 1; j >= 0; j--) {
      longest[i * width + j] = left[i] === right[j]
        ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const first = [], second = [];
  const add = (to, text, shared) => {
    const last = to[to.length - 1];
    if (last && last[1] === shared) last[0] += text;
    else to.push([text, shared]);
  };
  let i = 0, j = 0;
  while (i < left.length || j < right.length) {
    if (i < left.length && j < right.length && left[i] === right[j]) {
      add(first, left[i++], true);
      add(second, right[j++], true);
    } else if (j >= right.length || (i < left.length && longest[(i + 1) * width + j] >= longest[i * width + j + 1])) {
      add(first, left[i++], false);
    } else {
      add(second, right[j++], false);
    }
  }
  return [first, second];
}
