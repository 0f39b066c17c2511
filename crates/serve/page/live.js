// What the engine says of itself: `api/live`, read once a second and kept for some minutes.

/** Seconds that are kept. */
export const memory = 300;

/**
 * A snapshot as the rest of the page uses it, from the server's JSON. Sums and histograms are since the engine's start; what the server does
 * not say is 0 or empty.
 */
export function readSnapshot(json) {
  const totals = json.totals ?? {};
  return {
    at: json.uptime ?? 0, // seconds
    context: json.context ?? 0, // tokens
    weightBytes: json.weight_bytes ?? 0,
    kvBytes: json.kv_bytes ?? 0,
    waiting: json.waiting ?? 0,
    running: json.running ?? 0,
    groups: (json.occupancy ?? []).map(({ free = 0, cached = 0, owned = 0 }) => ({ free, cached, owned })),
    tokensIn: json.tokens_in ?? 0,
    tokensOut: json.tokens_out ?? totals.generated ?? 0,
    steps: totals.steps ?? 0,
    lookedUp: totals.looked_up ?? 0,
    found: totals.found ?? 0,
    preemptions: totals.preemptions ?? 0,
    drafted: totals.drafted ?? 0,
    accepted: totals.accepted ?? 0,
    firstToken: readHistogram(json.first_token),
    interToken: readHistogram(json.inter_token),
    answers: json.goodput?.sequences ?? 0,
    readable: json.goodput?.fast ?? [], // of the answers, those at least as fast as people read, and as they skim
    spent: json.spent ?? {}, // seconds by what took them
    experts: (json.expert_tokens ?? []).map((layer) => [...layer]), // [layers][experts]
    recent: json.recent ?? [], // [{ seconds, rows, sequences, ... }], oldest first
  };
}

/** The snapshots of the last minutes, oldest first. */
export class History {
  snapshots = [];

  /** Adds one that is `memory` seconds younger than the oldest that stay. An engine that started anew has a new history. */
  add(snapshot) {
    const last = this.snapshots.at(-1);
    if (last && snapshot.at < last.at) this.snapshots = [];
    // While no time passed there is nothing new, and no rate.
    if (last && snapshot.at === last.at) this.snapshots.pop();
    this.snapshots.push(snapshot);
    const first = this.snapshots.findIndex(({ at }) => at >= snapshot.at - memory);
    this.snapshots.splice(0, first);
  }

  get last() {
    return this.snapshots.at(-1);
  }

  /** Seconds before the last snapshot, for each: negative, and 0 at the end. */
  times() {
    return this.snapshots.map(({ at }) => at - this.last.at);
  }

  /** `value(snapshot)` of each. */
  levels(value) {
    return this.snapshots.map(value);
  }

  /** For each snapshot what `value(now, before)` says of it and of the one at least `seconds` older; null for the first ones. */
  changes(value, seconds = 0) {
    let before = 0;
    return this.snapshots.map((now, index) => {
      if (index === 0) return null;
      while (before + 1 < index && now.at - this.snapshots[before + 1].at >= seconds) before++;
      return value(now, this.snapshots[before]);
    });
  }

  /** The newest snapshot that is at least `seconds` older than the last, or the oldest. */
  before(seconds) {
    return this.snapshots.findLast(({ at }) => at <= this.last.at - seconds) ?? this.snapshots[0];
  }
}

/** How much of a sum came in per second. */
export function rate(value) {
  return (now, before) => (value(now) - value(before)) / (now.at - before.at);
}

/** A part of a whole, of what came in; null where nothing did. */
export function share(part, whole) {
  return (now, before) => ratio(part(now) - part(before), whole(now) - whole(before));
}

/** `part / whole`, null where the whole is nothing. */
export function ratio(part, whole) {
  return whole > 0 ? part / whole : null;
}

/** What a histogram counted after it was like `before`. */
export function since(histogram, before) {
  return { bounds: histogram.bounds, counts: histogram.counts.map((count, index) => count - (before.counts[index] ?? 0)) };
}

/**
 * The value below which a `part` of those in a histogram lie, interpolated within its bucket; null if it is empty. Beyond the last bound it
 * is that bound.
 */
export function quantile({ bounds, counts }, part) {
  const wanted = part * counts.reduce((sum, count) => sum + count, 0);
  if (!(wanted > 0)) return null;
  let below = 0;
  for (let index = 0; index < bounds.length; index++) {
    const count = counts[index] ?? 0;
    if (count > 0 && below + count >= wanted) {
      const low = index > 0 ? bounds[index - 1] : 0;
      return low + (bounds[index] - low) * ((wanted - below) / count);
    }
    below += count;
  }
  return bounds.at(-1) ?? null;
}

function readHistogram(json) {
  return { bounds: [...(json?.bounds ?? [])], counts: [...(json?.counts ?? [])] };
}
