/** Numbers, times and durations as the reader's language writes them. Times are in the reader's zone. */
import { language } from "./language";

type Locale = string;
/** Formatters cost far more to make than to use. */
const made = new Map<string, unknown>();

function once<F>(kind: string, options: object, make: () => F): F {
  const key = language.get() + kind + JSON.stringify(options);
  if (!made.has(key)) made.set(key, make());
  return made.get(key) as F;
}

function numbers(options: Intl.NumberFormatOptions): Intl.NumberFormat {
  return once("number", options, () => new Intl.NumberFormat(locale(), options));
}

/** Of the reader's own regions of the language: en-GB writes dates as people there do. */
export function locale(): Locale {
  const chosen = language.get();
  return navigator.languages.find((tag) => tag.toLowerCase().split("-")[0] === chosen) ?? chosen;
}

export const DASH = "–";
type Maybe = number | null | undefined;

function shown(n: Maybe, write: (n: number) => string): string {
  return n === null || n === undefined || !Number.isFinite(n) ? DASH : write(n);
}

export const integer = (n: Maybe): string => shown(n, (x) => numbers({ maximumFractionDigits: 0 }).format(x));

/** Three digits that matter: 0.0123, 1.23, 12.3, 1,234. */
export function decimal(n: Maybe): string {
  return shown(n, (x) =>
    Math.abs(x) >= 1000
      ? numbers({ maximumFractionDigits: 0 }).format(x)
      : numbers({ maximumSignificantDigits: 3 }).format(x),
  );
}

export const compact = (n: Maybe): string =>
  shown(n, (x) =>
    Math.abs(x) < 10_000 ? decimal(x) : numbers({ notation: "compact", maximumSignificantDigits: 3 }).format(x),
  );

export function percent(n: Maybe): string {
  return shown(n, (x) => {
    const digits = Math.abs(x) >= 0.0995 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 2 };
    return numbers({ style: "percent", ...digits }).format(x);
  });
}

function unit(n: number, name: string, digits = 3): string {
  const options = { style: "unit", unit: name, unitDisplay: "short", maximumSignificantDigits: digits } as const;
  return numbers(options).format(n);
}

/** 0.4 ms, 12.3 ms, 1.24 s, 2.1 min. */
export function milliseconds(n: Maybe): string {
  return shown(n, (x) =>
    x < 1000 ? unit(x, "millisecond") : x < 60_000 ? unit(x / 1000, "second") : unit(x / 60_000, "minute"),
  );
}

/** How long ago or how far behind: 0 s, 12 s, 3 min, 2.5 hr, 4 days. */
export function age(seconds: Maybe): string {
  return shown(seconds, (s) => {
    if (s < 1) return unit(0, "second");
    if (s < 60) return unit(Math.round(s), "second");
    if (s < 3600) return unit(Math.round(s / 60), "minute");
    if (s < 48 * 3600) return unit(s / 3600, "hour", 2);
    return unit(Math.round(s / 86400), "day");
  });
}

export function bytes(n: Maybe): string {
  return shown(n, (x) => {
    const names = ["byte", "kilobyte", "megabyte", "gigabyte", "terabyte", "petabyte"];
    const power = x < 1 ? 0 : Math.min(Math.floor(Math.log10(x) / 3), names.length - 1);
    return unit(x / 1000 ** power, names[power]!);
  });
}

type When = string | number | null | undefined;

function date(when: When, options: Intl.DateTimeFormatOptions): string {
  if (when === null || when === undefined) return DASH;
  const at = new Date(when);
  if (Number.isNaN(at.getTime())) return String(when);
  return once("date", options, () => new Intl.DateTimeFormat(locale(), options)).format(at);
}

const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" } as const;
const DAY = { month: "short", day: "numeric" } as const;

export const clock = (when: When): string => date(when, CLOCK);
export const clockSeconds = (when: When): string => date(when, { ...CLOCK, second: "2-digit" });
export const day = (when: When): string => date(when, DAY);
export const dayClock = (when: When): string => date(when, { ...DAY, ...CLOCK });
export const full = (when: When): string => date(when, { dateStyle: "medium", timeStyle: "medium", hourCycle: "h23" });
/** A date of the API, which is a date of UTC: it is no instant, and so of no zone. */
export const calendar = (iso: string): string =>
  date(`${iso}T00:00:00Z`, { weekday: "short", ...DAY, timeZone: "UTC" });

/** With milliseconds, for logs. */
export const exact = (when: When): string =>
  date(when, { ...DAY, ...CLOCK, second: "2-digit", fractionalSecondDigits: 3 });

export function utc(when: When): string {
  if (when === null || when === undefined) return "";
  const at = new Date(when);
  return Number.isNaN(at.getTime()) ? String(when) : `${at.toISOString().replace("T", " ").replace("Z", "")} UTC`;
}

/** Today's times need no date. */
export function moment(when: When): string {
  if (when === null || when === undefined) return DASH;
  const at = new Date(when);
  return at.toDateString() === new Date().toDateString() ? clockSeconds(when) : dayClock(when);
}

export function zone(): string {
  return Intl.DateTimeFormat().resolvedOptions().timeZone;
}
