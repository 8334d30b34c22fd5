/** The span of time that is looked at: as words of the URL, as bounds, and how finely it is drawn. */

export const SPANS = ["15m", "1h", "6h", "24h", "7d"] as const;
export type Span = (typeof SPANS)[number];

/** Up to now, or between two instants (milliseconds since 1970, UTC; half-open). */
export type Range = { readonly last: Span } | { readonly from: number; readonly to: number };

export interface Bounds {
  readonly from: number;
  readonly to: number;
  /** Whether it ends now, so that new data belong to it. */
  readonly open: boolean;
}

export const MINUTE = 60_000;
const UNITS: Record<string, number> = { m: MINUTE, h: 60 * MINUTE, d: 24 * 60 * MINUTE };
const STEPS = [1, 2, 5, 10, 30, 60, 180, 360, 720, 1440].map((minutes) => minutes * MINUTE);
const MOST_POINTS = 400;
export const DEFAULT: Range = { last: "1h" };

export function spanMs(span: Span): number {
  return Number(span.slice(0, -1)) * (UNITS[span.slice(-1)] ?? MINUTE);
}

/** What the parameters of a URL say; the default where they say nothing that can be understood. */
export function parseRange(params: URLSearchParams): Range {
  const from = instant(params.get("from"));
  const to = instant(params.get("to"));
  if (from !== null && to !== null && from < to) return { from, to };
  const last = SPANS.find((span) => span === params.get("range"));
  return last ? { last } : DEFAULT;
}

/** The parameters that say a range. */
export function rangeParams(range: Range): { range: string | null; from: string | null; to: string | null } {
  if ("last" in range) return { range: range.last, from: null, to: null };
  return { range: null, from: rfc3339(range.from), to: rfc3339(range.to) };
}

/** Names a range: two that are alike have the same key, whatever time it is. */
export function rangeKey(range: Range): string {
  return "last" in range ? range.last : `${range.from}-${range.to}`;
}

/** A range as of now. It begins with a whole minute, so that many who look at it ask the same question. */
export function bounds(range: Range, now: number): Bounds {
  if ("last" in range) {
    const from = Math.floor((now - spanMs(range.last)) / MINUTE) * MINUTE;
    return { from, to: now, open: true };
  }
  return { from: range.from, to: range.to, open: false };
}

/** How long one point of a chart is: the finest of the usual steps that needs at most 400 points. */
export function stepOf(range: Range): number {
  const length = "last" in range ? spanMs(range.last) : range.to - range.from;
  return STEPS.find((step) => length / step <= MOST_POINTS) ?? STEPS[STEPS.length - 1]!;
}

/** The same as a parameter of the API; null for the minutes as they are. */
export function stepParam(range: Range): string | null {
  const minutes = stepOf(range) / MINUTE;
  return minutes > 1 ? `${minutes}m` : null;
}

export function minutesOf(range: Range): number {
  return Math.ceil(("last" in range ? spanMs(range.last) : range.to - range.from) / MINUTE);
}

/** The span before (-1) or after (+1) this one; never beyond now. */
export function moved(range: Range, direction: -1 | 1, now: number): Range {
  const { from, to } = bounds(range, now);
  const length = "last" in range ? spanMs(range.last) : to - from;
  const end = Math.min(to + direction * length, now);
  return { from: end - length, to: end };
}

export function rfc3339(ms: number): string {
  return new Date(ms).toISOString().replace(/\.000Z$/, "Z");
}

function instant(text: string | null): number | null {
  // With its offset: a time without one would mean another instant to everyone who opens the link.
  if (!text || !/(Z|[+-]\d\d:\d\d)$/.test(text)) return null;
  const ms = Date.parse(text);
  return Number.isFinite(ms) ? ms : null;
}
