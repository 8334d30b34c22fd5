/**
 * What happens now: `/v1/stream`, read with fetch, as an EventSource cannot send the token.
 *
 * A connection that ends or falls silent is opened again from where it was (`Last-Event-ID`), sooner at first, later
 * and at random moments when that fails again.
 */
import { Problem, problemOf } from "./api";
import { signOut, token } from "./session";
import { EventParser } from "./sse";
import { Store } from "./store";

const FIRST_WAIT_MS = 1000;
const LONGEST_WAIT_MS = 30_000;
/** The server sends something every 15 s at the latest. */
export const SILENCE_MS = 45_000;

export type State =
  | { readonly is: "off" | "connecting" | "live" | "paused" }
  | { readonly is: "waiting"; readonly until: number; readonly problem: Problem | null }
  | { readonly is: "refused"; readonly problem: Problem };

type Listener = (data: unknown) => void;

export class Live {
  readonly state = new Store<State>({ is: "off" });
  private readonly listeners = new Map<string, Set<Listener>>();
  private running: AbortController | null = null;
  private lastId = "";

  constructor(private url: string) {}

  /** Ask for other events from now on; what was missed meanwhile follows. */
  ask(url: string): void {
    if (url === this.url) return;
    this.url = url;
    if (!this.running) return;
    this.stop();
    this.start();
  }

  on(type: string, listener: Listener): () => void {
    const all = this.listeners.get(type) ?? new Set();
    this.listeners.set(type, all.add(listener));
    return () => all.delete(listener);
  }

  start(): void {
    if (this.running) return;
    this.running = new AbortController();
    void this.run(this.running);
  }

  stop(paused = false): void {
    this.running?.abort();
    this.running = null;
    this.state.set({ is: paused ? "paused" : "off" });
  }

  /** Begin anew, as somebody else. */
  forget(): void {
    this.stop();
    this.lastId = "";
  }

  private async run(mine: AbortController): Promise<void> {
    let wait = FIRST_WAIT_MS;
    while (!mine.signal.aborted) {
      this.state.set({ is: "connecting" });
      let problem: Problem | null = null;
      let asked: number | null = null;
      const began = Date.now();
      try {
        asked = await this.read(mine.signal);
      } catch (error) {
        if (mine.signal.aborted) return;
        problem = error instanceof Problem ? error : new Problem(0, "unreachable", "");
      }
      if (mine.signal.aborted) return;
      if (problem?.status === 401) return signOut(problem.detail);
      if (problem && [403, 404, 406].includes(problem.status)) {
        // Asking again gives the same answer.
        this.running = null;
        return this.state.set({ is: "refused", problem });
      }
      // A connection that held for a while was a good one.
      if (Date.now() - began > LONGEST_WAIT_MS) wait = FIRST_WAIT_MS;
      const least = asked ?? (problem?.retryAfterS ?? 0) * 1000;
      const pause = Math.max(least, wait * (0.5 + Math.random() / 2));
      wait = Math.min(wait * 2, LONGEST_WAIT_MS);
      this.state.set({ is: "waiting", until: Date.now() + pause, problem });
      await sleep(pause, mine.signal);
    }
  }

  /** One connection, up to its end; the wait that the server asked for. */
  private async read(signal: AbortSignal): Promise<number | null> {
    const connection = new AbortController();
    const end = () => connection.abort();
    signal.addEventListener("abort", end, { once: true });
    let silence = setTimeout(end, SILENCE_MS);
    try {
      const headers: Record<string, string> = {
        Accept: "text/event-stream",
        Authorization: `Bearer ${token.get() ?? ""}`,
      };
      if (this.lastId) headers["Last-Event-ID"] = this.lastId;
      const response = await fetch(this.url, {
        headers,
        cache: "no-store",
        credentials: "omit",
        signal: connection.signal,
      });
      if (!response.ok) throw await problemOf(response);
      if (!response.body || !response.headers.get("Content-Type")?.startsWith("text/event-stream")) {
        throw new Problem(502, "no-stream", "");
      }
      this.state.set({ is: "live" });
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      const parser = new EventParser();
      parser.lastId = this.lastId;
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return parser.retryMs;
        clearTimeout(silence);
        silence = setTimeout(end, SILENCE_MS);
        for (const event of parser.push(value)) this.tell(event.type, event.data);
        this.lastId = parser.lastId;
      }
    } finally {
      clearTimeout(silence);
      signal.removeEventListener("abort", end);
      connection.abort();
    }
  }

  private tell(type: string, data: string): void {
    let said: unknown;
    try {
      said = JSON.parse(data);
    } catch {
      return; // Not ours: what cannot be read must not end the connection.
    }
    for (const listener of [...(this.listeners.get(type) ?? [])]) listener(said);
  }
}

function sleep(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      removeEventListener("online", done);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    addEventListener("online", done);
    signal.addEventListener("abort", done);
  });
}
