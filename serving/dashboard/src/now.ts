/** The live connection of this page, and what it last said. */
import { address } from "./api";
import { claims, token } from "./session";
import { Store } from "./store";
import { Live } from "./stream";
import type { Alert, Notification, Site, Trending } from "./types";

/** Of the site, one a second: a quarter of an hour. */
const KEPT = 900;

export interface Moment {
  readonly at: number;
  readonly users: number | null;
  readonly events: number;
}

/** What every page follows; notifications are personal, and asked for where they are looked at. */
const EVENTS = ["live", "trending", "alert", "table"];

export const live = new Live(asked(null));

function asked(user: string | null): string {
  const given = token.get();
  const may = user !== null && given !== null && claims(given)?.scopes.includes("read:users");
  const events = [...EVENTS, ...(may ? ["notification"] : [])].join(",");
  return address("/stream", { events, user_id: may ? user : null });
}

/** Follow the notifications of a user, or of nobody. */
export function follow(user: string | null): void {
  live.ask(asked(user));
}
export const site = new Store<Site | null>(null);
export const moments = new Store<readonly Moment[]>([]);
export const trending = new Store<readonly Trending[] | null>(null);
export const alertChanged = new Store<Alert | null>(null);
export const notified = new Store<Notification | null>(null);
/** Whoever follows tables is told the name of each that moved. */
const followers = new Set<(table: string) => void>();

/** Listen for tables that move on. */
export function onTable(follower: (table: string) => void): () => void {
  followers.add(follower);
  return () => followers.delete(follower);
}

export function total(of: Site): number {
  return Object.values(of.events_1m).reduce((sum, n) => sum + n, 0);
}

export function saw(found: Site): void {
  if (!found.events_1m) return;
  site.set(found);
  const at = found.at ? Date.parse(found.at) : Date.now();
  const before = moments.get();
  if (before.length > 0 && at <= before[before.length - 1]!.at) return;
  moments.set([...before.slice(1 - KEPT), { at, users: found.active_users, events: total(found) }]);
}

/** `{name: value}` or the value itself. */
function unwrapped<T>(data: unknown, name: string): T {
  return (data !== null && typeof data === "object" && name in data ? (data as Record<string, unknown>)[name] : data) as T;
}

live.on("live", (data) => saw(unwrapped<Site>(data, "site")));
live.on("trending", (data) => {
  const found = unwrapped<Trending[]>(data, "data");
  if (Array.isArray(found)) trending.set(found);
});
live.on("alert", (data) => alertChanged.set(data as Alert));
live.on("notification", (data) => notified.set(data as Notification));
live.on("table", (data) => {
  const name = (data as { name?: unknown }).name;
  if (typeof name === "string") for (const tell of [...followers]) tell(name);
});

/** One connection while somebody is signed in and has not paused; none in a tab that nobody looks at. */
export const paused = new Store(false);

export function keepLive(): void {
  const decide = () => {
    if (token.get() === null) live.stop();
    else if (paused.get()) live.stop(true);
    else if (document.visibilityState === "hidden") live.stop();
    else live.start();
  };
  let who = token.get();
  token.subscribe(() => {
    if (who !== token.get()) {
      who = token.get();
      live.forget();
      site.set(null);
      moments.set([]);
      trending.set(null);
      alertChanged.set(null);
      notified.set(null);
    }
    decide();
  });
  paused.subscribe(decide);
  document.addEventListener("visibilitychange", decide);
  decide();
}
