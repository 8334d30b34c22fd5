/** A question to the API that a panel keeps asking: at first, when its tables move on, and from time to time. */
import { useEffect, useRef, useState } from "preact/hooks";

import { Problem } from "./api";
import { live, onTable, paused } from "./now";
import { token } from "./session";
import type { Store } from "./store";

const EVERY_MS = 30_000;
/** Two commits a second are no reason to ask twice a second. */
const LEAST_GAP_MS = 5000;
const MOST_KEPT = 120;

export interface Query<T> {
  readonly data: T | undefined;
  /** What went wrong when it was asked last; `data` is then of an earlier time. */
  readonly problem: Problem | undefined;
  readonly asking: boolean;
  /** When the data came, milliseconds. */
  readonly at: number | undefined;
  readonly again: () => void;
}

interface Kept {
  readonly data: unknown;
  readonly at: number;
}
/** What was seen last, so that a page that is opened again shows at once what it showed before. */
const kept = new Map<string, Kept>();
token.subscribe(() => kept.clear());

export interface Follow {
  /** Tables whose move is a reason to ask. */
  readonly tables?: readonly string[];
  /** What else is a reason when it changes: what the stream said. */
  readonly when?: Store<unknown>;
  readonly everyMs?: number;
  readonly gapMs?: number;
  /** Do not ask by itself now: the reader has gone on from what there was. */
  readonly still?: boolean;
}

/**
 * Ask, and keep asking.
 *
 * `key` names the question; with another key another question is asked, with null none. What belongs to the question,
 * such as the time now, is looked up by `load` when it asks.
 */
export function useQuery<T>(
  key: string | null,
  load: (signal: AbortSignal) => Promise<T>,
  { tables = [], when, everyMs = EVERY_MS, gapMs = LEAST_GAP_MS, still = false }: Follow = {},
): Query<T> {
  const [, draw] = useState(0);
  const asked = useRef(load);
  asked.current = load;
  const stands = useRef(still);
  stands.current = still;
  const state = useRef<{ key: string | null; problem: Problem | undefined; asking: boolean; again: () => void }>({
    key: null,
    problem: undefined,
    asking: false,
    again: () => {},
  });
  if (state.current.key !== key) {
    state.current = { key, problem: undefined, asking: key !== null, again: () => {} };
  }
  const followed = tables.join();

  useEffect(() => {
    if (key === null) return;
    const mine = state.current;
    let request: AbortController | null = null;
    let timer: ReturnType<typeof setTimeout> | undefined;
    let due = Infinity;
    let last = 0;

    const later = (ms: number) => {
      const left = due - Date.now();
      // What is overdue waits for a timer that slept with the machine.
      if (left > 0 && left <= ms) return;
      clearTimeout(timer);
      due = Date.now() + ms;
      timer = setTimeout(() => {
        due = Infinity;
        // Who pauses wants the picture to stand still; who does not look needs none.
        if (document.visibilityState === "hidden" || paused.get() || stands.current) later(1000);
        else void now();
      }, ms);
    };
    const now = async () => {
      request?.abort();
      const asking = new AbortController();
      request = asking;
      clearTimeout(timer);
      due = Infinity;
      last = Date.now();
      mine.asking = true;
      draw((n) => n + 1);
      let wait = everyMs;
      try {
        const data = await asked.current(asking.signal);
        if (asking.signal.aborted) return;
        kept.delete(key);
        kept.set(key, { data, at: Date.now() });
        if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value!);
        mine.problem = undefined;
      } catch (error) {
        if (asking.signal.aborted) return;
        if (!(error instanceof Problem)) console.error(error);
        mine.problem = error instanceof Problem ? error : new Problem(0, "unreadable", String(error));
        const { status, retryAfterS } = mine.problem;
        // A wrong question stays wrong until it is changed.
        if (status >= 400 && status < 500 && status !== 408 && status !== 429) wait = Infinity;
        else wait = Math.max((retryAfterS ?? 0) * 1000, Math.min(everyMs, 10_000));
      }
      mine.asking = false;
      draw((n) => n + 1);
      if (wait < Infinity) later(wait);
    };
    mine.again = () => void now();

    const before = kept.get(key);
    if (before && Date.now() - before.at < gapMs) {
      mine.asking = false;
      draw((n) => n + 1);
      last = before.at;
      later(before.at + gapMs - Date.now());
    } else {
      void now();
    }
    const soon = () => {
      if (!mine.problem) later(Math.max(last + gapMs - Date.now(), 0));
    };
    const unfollow = onTable((table) => {
      if (tables.includes(table)) soon();
    });
    const unwhen = when?.subscribe(soon);
    const unpause = paused.subscribe(() => {
      if (!paused.get()) later(0);
    });
    // After a gap in the stream, moves of tables may have gone unseen.
    let was = live.state.get().is;
    const unlive = live.state.subscribe(() => {
      const is = live.state.get().is;
      if (is === "live" && was === "connecting" && tables.length > 0) soon();
      was = is;
    });
    return () => {
      request?.abort();
      clearTimeout(timer);
      unfollow();
      unwhen?.();
      unpause();
      unlive();
    };
  }, [key, followed]);

  const found = key === null ? undefined : kept.get(key);
  const { problem, asking, again } = state.current;
  return { data: found?.data as T | undefined, problem, asking, at: found?.at, again };
}
