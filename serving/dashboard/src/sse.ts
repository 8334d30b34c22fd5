/** Server-sent events as the HTML standard (9.2.6) reads them, out of text that arrives in pieces of any size. */

export interface StreamEvent {
  readonly type: string;
  readonly data: string;
  /** What `Last-Event-ID` is after this event. */
  readonly id: string;
}

export class EventParser {
  /** Of the last event that was given out, or of a block without data. */
  lastId = "";
  /** What the server asked for with `retry:`, milliseconds. */
  retryMs: number | null = null;
  private rest = "";
  private afterCr = false;
  private first = true;
  private type = "";
  private data: string[] = [];
  private id: string | null = null;

  /** The events that are complete with this piece. */
  push(piece: string): StreamEvent[] {
    if (this.first && piece !== "") {
      this.first = false;
      piece = piece.replace(/^\uFEFF/, "");
    }
    if (this.afterCr && piece !== "") {
      this.afterCr = false;
      if (piece.startsWith("\n")) piece = piece.slice(1);
    }
    if (piece.endsWith("\r")) this.afterCr = true;
    const lines = (this.rest + piece).split(/\r\n|\n|\r/);
    this.rest = lines.pop() ?? "";
    const events: StreamEvent[] = [];
    for (const line of lines) {
      const event = this.line(line);
      if (event) events.push(event);
    }
    return events;
  }

  private line(line: string): StreamEvent | null {
    if (line === "") return this.dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "event") this.type = value;
    else if (field === "data") this.data.push(value);
    else if (field === "id" && !value.includes("\0")) this.id = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retryMs = Number(value);
    return null;
  }

  private dispatch(): StreamEvent | null {
    if (this.id !== null) this.lastId = this.id;
    const event =
      this.data.length > 0
        ? { type: this.type || "message", data: this.data.join("\n"), id: this.lastId }
        : null;
    this.type = "";
    this.data = [];
    return event;
  }
}
