/** Rows of the API as columns of a chart: equal steps of time, nulls where nothing is known. */

export type Column = (number | null)[];

/** Steps of time: the first begins at `start`, milliseconds. */
export interface Axis {
  readonly start: number;
  readonly step: number;
  readonly length: number;
}

export function axis(from: number, to: number, step: number): Axis {
  const start = Math.floor(from / step) * step;
  return { start, step, length: Math.max(Math.ceil((to - start) / step), 1) };
}

/** Where the steps begin, in seconds, as uPlot wants them. */
export function seconds(of: Axis): number[] {
  return Array.from({ length: of.length }, (_, i) => (of.start + i * of.step) / 1000);
}

export function place(on: Axis, ms: number): number | null {
  const i = Math.floor((ms - on.start) / on.step);
  return i >= 0 && i < on.length ? i : null;
}

/** Fold rows into steps; a step without rows is null. */
export function fold<R>(
  on: Axis,
  rows: Iterable<R>,
  time: (row: R) => string,
  value: (row: R) => number | null,
  join: (a: number, b: number) => number,
): Column {
  const column: Column = new Array<number | null>(on.length).fill(null);
  for (const row of rows) {
    const i = place(on, Date.parse(time(row)));
    const found = value(row);
    if (i === null || found === null) continue;
    const before = column[i];
    column[i] = before === null || before === undefined ? found : join(before, found);
  }
  return column;
}

export const plus = (a: number, b: number): number => a + b;

/**
 * Counts a minute: where there is no row nothing happened, up to the last step that any row is of. What comes after is
 * not known yet, and nor is a step that is not over (`now`).
 */
export function perMinute<R>(
  on: Axis,
  rows: readonly R[],
  time: (row: R) => string,
  count: (row: R) => number,
  now: number,
  newest = rows.reduce((latest, row) => Math.max(latest, Date.parse(time(row))), -Infinity),
): Column {
  const minutes = on.step / 60_000;
  return fold(on, rows, time, count, plus).map((sum, i) => {
    const begins = on.start + i * on.step;
    if (begins > newest || begins + on.step > now) return null;
    return (sum ?? 0) / minutes;
  });
}

/** One column divided by another, step by step. */
export function ratio(part: Column, whole: Column): Column {
  return part.map((n, i) => {
    const of = whole[i];
    return n === null || !of ? null : n / of;
  });
}

export interface Summary {
  readonly least: number;
  readonly most: number;
  readonly last: number;
  readonly mean: number;
}

export function summary(column: Column): Summary | null {
  const known = column.filter((n): n is number => n !== null);
  if (known.length === 0) return null;
  return {
    least: known.reduce((a, b) => Math.min(a, b)),
    most: known.reduce((a, b) => Math.max(a, b)),
    last: known[known.length - 1]!,
    mean: known.reduce(plus) / known.length,
  };
}

/** At most so many of the steps, evenly, the last one among them: for tables that people or screen readers read. */
export function thinned(length: number, most: number): number[] {
  if (length <= most) return Array.from({ length }, (_, i) => i);
  const every = (length - 1) / (most - 1);
  return Array.from({ length: most }, (_, i) => Math.round(i * every));
}

/** So many missing steps in a row are drawn over: samples seldom come as evenly as steps do. */
export function bridged(length: number): number {
  return Math.ceil(length * 0.03);
}

/** Places of values that no line reaches, as what is missing on both sides is too long to be drawn over. */
export function lonely(column: Column, bridge = bridged(column.length)): number[] {
  const known = column.flatMap((n, i) => (n === null ? [] : [i]));
  const far = (a: number | undefined, b: number | undefined) =>
    a === undefined || b === undefined || b - a - 1 > bridge;
  return known.filter((i, at) => far(known[at - 1], i) && far(i, known[at + 1]));
}

/** An SVG path of a small line without axes, in a box of that size; long gaps are gaps. */
export function line(column: Column, width: number, height: number, ceiling?: number): string {
  const found = summary(column);
  if (!found) return "";
  const top = Math.max(ceiling ?? found.most, 1e-12);
  const across = column.length > 1 ? width / (column.length - 1) : 0;
  const bridge = bridged(column.length);
  let path = "";
  let before = -Infinity;
  column.forEach((n, i) => {
    if (n === null) return;
    const y = height - Math.min(Math.max(n / top, 0), 1) * height;
    path += `${i - before - 1 > bridge ? "M" : "L"}${round(i * across)} ${round(y)}`;
    before = i;
  });
  return path;
}

const round = (n: number) => Math.round(n * 100) / 100;

/** Points of any times as a column: straight lines between them, nothing before the first or after the last. */
export function interpolated(on: Axis, points: readonly { readonly at: number; readonly value: number }[]): Column {
  const sorted = [...points].sort((a, b) => a.at - b.at);
  let right = 0;
  return Array.from({ length: on.length }, (_, i) => {
    const at = on.start + i * on.step;
    while (right < sorted.length && sorted[right]!.at < at) right++;
    const after = sorted[right];
    const before = sorted[right - 1];
    if (!after) return null;
    if (after.at === at || (!before && after.at < at + on.step)) return after.value;
    if (!before) return null;
    return before.value + ((after.value - before.value) * (at - before.at)) / (after.at - before.at);
  });
}
