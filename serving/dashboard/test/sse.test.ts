import { describe, expect, it } from "vitest";

import { EventParser, type StreamEvent } from "../src/sse";

const STREAM =
  "\uFEFF: a comment\n\nretry: 300\n\nevent: live\nid: 1\ndata: {\"a\":\ndata: \"호수 🦆\"}\n\n" +
  "id: 2\n\ndata:no blank\r\n\r\nevent:table\rdata\rid: 3\r\rnonsense: x\ndata: last\n\ndata: cut off";
const EVENTS: StreamEvent[] = [
  { type: "live", data: '{"a":\n"호수 🦆"}', id: "1" },
  { type: "message", data: "no blank", id: "2" },
  { type: "table", data: "", id: "3" },
  { type: "message", data: "last", id: "3" },
];

describe("a stream of events", () => {
  it("is read as the standard says", () => {
    const parser = new EventParser();
    expect(parser.push(STREAM)).toEqual(EVENTS);
    expect([parser.lastId, parser.retryMs]).toEqual(["3", 300]);
  });

  it("is read alike in whatever pieces it comes", () => {
    for (let size = 1; size < 12; size++) {
      const parser = new EventParser();
      const found: StreamEvent[] = [];
      for (let i = 0; i < STREAM.length; i += size) found.push(...parser.push(STREAM.slice(i, i + size)));
      expect(found).toEqual(EVENTS);
    }
  });

  it("that breaks off within an event goes on from the event before", () => {
    const parser = new EventParser();
    parser.push("id: 7\ndata: whole\n\nid: 8\ndata: half");
    expect(parser.lastId).toBe("7");
  });

  it("takes no id with a NUL and no retry that is no number", () => {
    const parser = new EventParser();
    parser.push("id: a\0b\nretry: soon\ndata: x\n\n");
    expect([parser.lastId, parser.retryMs]).toEqual(["", null]);
  });
});
