/** The API: requests with the token, answers with their age, and problems (RFC 9457) as errors. */
import { signOut, token } from "./session";

const PATIENCE_MS = 30_000;

export class Problem extends Error {
  constructor(
    /** Of HTTP; 0: no answer came. */
    readonly status: number,
    /** The last part of its type: what programs tell problems apart by. */
    readonly kind: string,
    readonly detail: string,
    readonly requestId: string | null = null,
    /** The scope that the token lacks. */
    readonly scope: string | null = null,
    readonly retryAfterS: number | null = null,
  ) {
    super(detail);
  }
}

export interface Answer<T> {
  readonly body: T;
  /** Seconds since the table's version was committed; null of what is no table. */
  readonly ageS: number | null;
}

export type Params = Record<string, string | number | readonly string[] | null | undefined>;

interface Known {
  readonly etag: string;
  readonly answer: Answer<unknown>;
}
/** Answers by address, for as long as the API says that they are still right. In memory: nothing is left on a disk. */
const known = new Map<string, Known>();
const MOST_KNOWN = 40;
token.subscribe(() => known.clear());

export function address(path: string, params: Params = {}): string {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(params)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") query.append(name, String(one));
    }
  }
  const text = query.toString();
  return `/v1${path}${text ? `?${text}` : ""}`;
}

/** One object. */
export function get<T>(path: string, params: Params = {}, signal?: AbortSignal): Promise<Answer<T>> {
  return getAt(address(path, params), signal);
}

/** One object by its whole address. */
export function getAt<T>(url: string, signal?: AbortSignal): Promise<Answer<T>> {
  return ask(url, "application/json", (response) => response.json() as Promise<T>, signal);
}

/** Rows of a table, up to `limit`; they come as NDJSON, which has no bound on their number. */
export function rows<T>(path: string, params: Params, signal?: AbortSignal): Promise<Answer<T[]>> {
  const read = async (response: Response) => parseLines<T>(await response.text());
  return ask(address(path, params), "application/x-ndjson", read, signal);
}

/** A file, kept where the browser puts what it downloads: a link alone would ask for it without the token. */
export async function save(url: string, name: string): Promise<void> {
  const { body } = await ask(url, "*/*", (response) => response.blob());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(body);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function parseLines<T>(text: string): T[] {
  return text
    .split("\n")
    .filter((line) => line.trim() !== "")
    .map((line) => JSON.parse(line) as T);
}

async function ask<T>(
  url: string,
  accept: string,
  read: (response: Response) => Promise<T>,
  signal?: AbortSignal,
): Promise<Answer<T>> {
  const using = token.get();
  const before = known.get(url) as { etag: string; answer: Answer<T> } | undefined;
  const headers: Record<string, string> = { Accept: accept, Authorization: `Bearer ${using ?? ""}` };
  if (before) headers["If-None-Match"] = before.etag;
  const patience = AbortSignal.timeout(PATIENCE_MS);
  try {
    const response = await fetch(url, {
      headers,
      cache: "no-store",
      credentials: "omit",
      signal: signal ? AbortSignal.any([signal, patience]) : patience,
    });
    const ageS = number(response.headers.get("Lakehouse-Data-Age"));
    if (response.status === 304 && before) {
      return { body: before.answer.body, ageS: ageS ?? before.answer.ageS };
    }
    if (!response.ok) throw await problemOf(response);
    const answer = { body: await read(response), ageS };
    const etag = response.headers.get("ETag");
    if (etag && using === token.get()) {
      known.delete(url);
      known.set(url, { etag, answer });
      if (known.size > MOST_KNOWN) known.delete(known.keys().next().value!);
    }
    return answer;
  } catch (error) {
    if (signal?.aborted) throw error;
    const problem =
      error instanceof Problem ? error : new Problem(0, patience.aborted ? "slow" : "unreachable", "");
    // Of the token that was used: another may have come meanwhile.
    if (problem.status === 401 && using === token.get()) signOut(problem.detail);
    throw problem;
  }
}

export async function problemOf(response: Response): Promise<Problem> {
  let said: Record<string, unknown> = {};
  try {
    said = (await response.json()) as Record<string, unknown>;
  } catch {
    // A proxy's page, or nothing.
  }
  const text = (name: string) => (typeof said[name] === "string" ? (said[name] as string) : null);
  const challenge = response.headers.get("WWW-Authenticate") ?? "";
  return new Problem(
    response.status,
    text("type")?.split(":").pop() ?? "http",
    text("detail") ?? text("title") ?? response.statusText,
    text("request_id") ?? response.headers.get("X-Request-Id"),
    text("scope") ?? /scope="([^"]+)"/.exec(challenge)?.[1] ?? null,
    number(response.headers.get("Retry-After")),
  );
}

function number(text: string | null): number | null {
  const value = text === null ? NaN : Number(text);
  return Number.isFinite(value) ? value : null;
}
