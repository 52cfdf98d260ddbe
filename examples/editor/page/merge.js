// Edits of a text, as one splice each: at `at`, cut so many characters and put in others. A text is an array of code
// points here, so that a place means the same to the page and to the server.

/** The splice that makes `after` out of `before`; null when they are the same. */
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

/** `text` with a splice made. */
export function splice(text, { at, cut, put }) {
  return [...text.slice(0, at), ...put, ...text.slice(at + cut)];
}

/** Where a place in a text is after a splice of that text. */
export function moved(place, { at, cut, put }) {
  if (place <= at) return place;
  return place >= at + cut ? place + put.length - cut : at + put.length;
}

/** My splice of a text, said again for that text after their splice. */
export function rebase(mine, theirs) {
  const at = moved(mine.at, theirs);
  return { at, cut: moved(mine.at + mine.cut, theirs) - at, put: mine.put };
}
