/** What pages are put together from: times, numbers, bars, lists of choices. */
import type { ComponentChildren } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { age, DASH, full, moment, utc } from "../format";
import { href } from "../route";
import { line, type Column } from "../series";
import { Store, useStore } from "../store";
import { t } from "../language";

type When = string | number | null | undefined;

/** A time in the reader's zone; in UTC under the pointer. */
export function Time({ at, as = moment }: { at: When; as?: (at: When) => string }) {
  if (at === null || at === undefined) return <span>{DASH}</span>;
  return (
    <time dateTime={new Date(at).toISOString()} title={`${full(at)}\n${utc(at)}`}>
      {as(at)}
    </time>
  );
}

/** The time now, to the second, for ages. One clock for all of the page. */
const second = new Store(Date.now());
setInterval(() => {
  if (document.visibilityState === "visible") second.set(Date.now());
}, 1000);

export function useNow(): number {
  return useStore(second);
}

/** How long ago that was, and grows. */
export function Ago({ at }: { at: When }) {
  const now = useNow();
  if (at === null || at === undefined) return <span>{DASH}</span>;
  const s = Math.max((now - new Date(at).getTime()) / 1000, 0);
  return (
    <time dateTime={new Date(at).toISOString()} title={`${full(at)}\n${utc(at)}`}>
      {s < 2 ? t("time.now") : t("time.ago", { age: age(s) })}
    </time>
  );
}

/** A small line without axes, beside a number that says what matters. */
export function Spark({ values, tone = "accent", ceiling }: { values: Column; tone?: Tone; ceiling?: number }) {
  const path = useMemo(() => line(values, 100, 22, ceiling), [values, ceiling]);
  return (
    <svg class={`spark tone-${tone}`} viewBox="0 0 100 24" preserveAspectRatio="none" aria-hidden="true">
      <path d={path} transform="translate(0 1)" />
    </svg>
  );
}

export type Tone = "accent" | "accent2" | "accent3" | "muted" | "good" | "warn" | "bad";

/** A share of a whole as a bar; the words beside it say the number. */
export function Bar({ share, tone = "accent" }: { share: number | null; tone?: Tone }) {
  const width = Math.min(Math.max(share ?? 0, 0), 1) * 100;
  return (
    <svg class={`bar tone-${tone}`} viewBox="0 0 100 6" preserveAspectRatio="none" aria-hidden="true">
      <rect class="bar-track" width="100" height="6" />
      <rect class="bar-fill" width={width} height="6" />
    </svg>
  );
}

export function Badge({ tone, children }: { tone: Tone; children: ComponentChildren }) {
  return <span class={`badge tone-${tone}`}>{children}</span>;
}

export interface Figure {
  readonly label: string;
  readonly value: ComponentChildren;
  readonly note?: ComponentChildren;
  readonly tone?: Tone;
  readonly href?: string;
  readonly spark?: Column;
}

/** Numbers that are read first, side by side. */
export function Figures({ label, of }: { label: string; of: readonly Figure[] }) {
  return (
    <ul class="figures" aria-label={label}>
      {of.map((one) => (
        <li key={one.label} class={one.tone ? `figure tone-${one.tone}` : "figure"}>
          <div class="figure-label">{one.href ? <a href={one.href}>{one.label}</a> : one.label}</div>
          <div class="figure-value">{one.value}</div>
          <div class="figure-note">{one.note ?? " "}</div>
          {one.spark && <Spark values={one.spark} />}
        </li>
      ))}
    </ul>
  );
}

export interface Choice<V extends string> {
  readonly value: V;
  readonly label: ComponentChildren;
}

/** A few choices, one of which holds: radio buttons that look like one bar. */
export function Segments<V extends string>(props: {
  name: string;
  label: string;
  of: readonly Choice<V>[];
  value: V;
  choose: (value: V) => void;
}) {
  return (
    <fieldset class="segments">
      <legend class="hidden">{props.label}</legend>
      {props.of.map(({ value, label }) => (
        <label key={value} class="segment">
          <input
            type="radio"
            name={props.name}
            value={value}
            checked={value === props.value}
            onChange={() => props.choose(value)}
          />
          <span>{label}</span>
        </label>
      ))}
    </fieldset>
  );
}

export function Select<V extends string>(props: {
  label: string;
  of: readonly Choice<V>[];
  value: V;
  choose: (value: V) => void;
}) {
  return (
    <label class="select">
      <span>{props.label}</span>
      <select value={props.value} onChange={(event) => props.choose(event.currentTarget.value as V)}>
        {props.of.map(({ value, label }) => (
          <option key={value} value={value} selected={value === props.value}>
            {label}
          </option>
        ))}
      </select>
    </label>
  );
}

/** A table that is wider than the screen is moved sideways by itself, by keys, too; the page never is. */
export function Scroll({ label, children }: { label: string; children: ComponentChildren }) {
  return (
    <div class="scroll" role="group" aria-label={label} tabIndex={0}>
      {children}
    </div>
  );
}

export function PostLink({ id }: { id: string }) {
  return (
    <a class="mono" href={href("posts", { post: id })}>
      {id}
    </a>
  );
}

export function UserLink({ id }: { id: string }) {
  return (
    <a class="mono" href={href("users", { user: id })}>
      {id}
    </a>
  );
}

/** What a screen reader says now and then of numbers that move all the time. */
export function Spoken({ text, everyMs = 20_000 }: { text: string; everyMs?: number }) {
  const newest = useRef(text);
  newest.current = text;
  const [said, say] = useState("");
  useEffect(() => {
    const timer = setInterval(() => say(newest.current), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
  return (
    <p class="hidden" role="status">
      {said}
    </p>
  );
}
