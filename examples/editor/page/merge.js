// Edits of a text. Each is one splice: at `at`, remove `cut` characters and insert `put`. A text is an array of code points, so
// that places mean the same here and on the server.

/** The splice that turns `before` into `after`; null if they are equal. */
export function difference(before, after) {
  const most = Math.min(before.length, after.length);
  let start = 0;
  while (start < most && before[start] === after[start]) start += 1;
  let end = 0;
  while (end < most - start && before[before.length - 1 - end] === after[after.length - 1 - end]) end += 1;
  const cut = before.length - start - end;
  const put = after.slice(start, after.length - end);
  return cut || put.length ? { at: start, cut, put } : null;
}

/** `text` with a splice applied. */
export function splice(text, { at, cut, put }) {
  return [...text.slice(0, at), ...put, ...text.slice(at + cut)];
}

/** The place in a text after a splice of that text. */
export function moved(place, { at, cut, put }) {
  if (place <= at) return place;
  return place >= at + cut ? place + put.length - cut : at + put.length;
}

/** My splice, rebased onto the text after their splice. */
export function rebase(mine, theirs) {
  const at = moved(mine.at, theirs);
  return { at, cut: moved(mine.at + mine.cut, theirs) - at, put: mine.put };
}
