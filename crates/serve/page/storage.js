// What this browser remembers. Storage may be full, forbidden or hold something old: then the page works without.

/** A value kept across visits, or `otherwise`. */
export function recall(key, otherwise) {
  try {
    const text = localStorage.getItem(`lyceum.${key}`);
    return text === null ? otherwise : JSON.parse(text);
  } catch {
    return otherwise;
  }
}

/** Keeps a value across visits; `undefined` forgets it. */
export function remember(key, value) {
  try {
    if (value === undefined) localStorage.removeItem(`lyceum.${key}`);
    else localStorage.setItem(`lyceum.${key}`, JSON.stringify(value));
  } catch {
    // Nothing depends on it.
  }
}
