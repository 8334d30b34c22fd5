/**
 * Where the reader is: `#/page?param=value`.
 *
 * All of it stands behind the `#`, which browsers keep to themselves: user ids, trace ids and searches reach no log of
 * a server or proxy by way of the address, and the server has one page to serve.
 */
import { Store } from "./store";
import { parseRange, rangeParams, type Range } from "./range";

export const PAGES = [
  "overview",
  "activity",
  "posts",
  "services",
  "hosts",
  "logs",
  "users",
  "alerts",
  "pipeline",
  "lineage",
] as const;
export type Page = (typeof PAGES)[number];

export interface Route {
  readonly page: Page;
  readonly params: URLSearchParams;
}

export function parseRoute(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  return { page: PAGES.find((page) => page === path) ?? "overview", params: new URLSearchParams(query) };
}

export function formatRoute({ page, params }: Route): string {
  const query = params.toString();
  return `#/${page}${query ? `?${query}` : ""}`;
}

export type Changes = Record<string, string | null>;

/** A route with other parameters: null takes one away. */
export function changed(route: Route, changes: Changes, page: Page = route.page): Route {
  const params = new URLSearchParams(page === route.page ? route.params : rangeOnly(route.params));
  for (const [name, value] of Object.entries(changes)) {
    if (value === null || value === "") params.delete(name);
    else params.set(name, value);
  }
  return { page, params };
}

function rangeOnly(params: URLSearchParams): URLSearchParams {
  const kept = new URLSearchParams();
  for (const name of ["range", "from", "to"]) {
    const value = params.get(name);
    if (value !== null) kept.set(name, value);
  }
  return kept;
}

export const route = new Store<Route>({ page: "overview", params: new URLSearchParams() });

/** The address of a page, with the range that is looked at now. */
export function href(page: Page, changes: Changes = {}): string {
  return formatRoute(changed(route.get(), changes, page));
}

/** Go to other parameters of this page, or to another page; `replace` leaves no step behind in the history. */
export function go(changes: Changes, { page = route.get().page, replace = false } = {}): void {
  const next = changed(route.get(), changes, page);
  const address = formatRoute(next);
  if (address === location.hash) return;
  if (replace) history.replaceState(null, "", address);
  else history.pushState(null, "", address);
  route.set(next);
}

export function setRange(range: Range): void {
  go(rangeParams(range));
}

/** Follow the address bar; the range is always written into it, so that what is seen can be shared as it is. */
export function followAddress(): void {
  const read = () => {
    const found = parseRoute(location.hash);
    const whole = changed(found, rangeParams(parseRange(found.params)));
    const address = formatRoute(whole);
    if (address !== location.hash) history.replaceState(null, "", address);
    if (address !== formatRoute(route.get()) || route.get().params.size === 0) route.set(whole);
  };
  addEventListener("hashchange", read);
  addEventListener("popstate", read);
  read();
}
