import { describe, expect, it } from "vitest";

import { bounds, MINUTE, moved, parseRange, rangeParams, rfc3339, SPANS, spanMs, stepOf, type Range } from "../src/range";

const NOW = Date.parse("2026-11-26T09:30:20.500Z");
const parse = (query: string) => parseRange(new URLSearchParams(query));

describe("a range", () => {
  it("is understood from the address, and written back as it was", () => {
    for (const range of [...SPANS.map((last) => ({ last })), { from: NOW - 5000, to: NOW }] as Range[]) {
      const params = new URLSearchParams();
      for (const [name, value] of Object.entries(rangeParams(range))) if (value) params.set(name, value);
      expect(parseRange(params)).toEqual(range);
    }
  });

  it("is the last hour where the address says nothing that can be understood", () => {
    for (const query of [
      "", "range=2h", "range=__proto__", "from=x&to=y", "from=2026-11-26T09:00:00Z", "from=2026-11-26&to=2026-11-27",
      "from=2026-11-26T09:00:00Z&to=2026-11-26T08:00:00Z", "from=2026-11-26T09:00:00&to=2026-11-26T10:00:00",
    ]) {
      expect(parse(query)).toEqual({ last: "1h" });
    }
  });

  it("means the same instants whatever offset it is written with", () => {
    const utc = parse("from=2026-11-26T00:00:00Z&to=2026-11-26T01:00:00Z");
    expect(parse("from=2026-11-26T09:00:00%2B09:00&to=2026-11-26T10:00:00%2B09:00")).toEqual(utc);
  });

  it("up to now begins with a whole minute and is open", () => {
    const found = bounds({ last: "15m" }, NOW);
    expect(found).toEqual({ from: Date.parse("2026-11-26T09:15:00Z"), to: NOW, open: true });
  });

  it("moves by its own length, and never beyond now", () => {
    const hour = 60 * MINUTE;
    const before = moved({ last: "1h" }, -1, NOW) as { from: number; to: number };
    expect([NOW - before.to, before.to - before.from]).toEqual([hour, hour]);
    expect(moved({ from: NOW - 2 * hour, to: NOW - hour / 2 }, 1, NOW)).toEqual({ from: NOW - 1.5 * hour, to: NOW });
  });

  it("is drawn in 400 points at most, the longest too", () => {
    for (const last of SPANS) expect(spanMs(last) / stepOf({ last })).toBeLessThanOrEqual(400);
    expect(stepOf({ from: 0, to: NOW })).toBeGreaterThan(0);
  });

  it("is told to the API in UTC", () => {
    expect(rfc3339(Date.parse("2026-11-26T18:00:00+09:00"))).toBe("2026-11-26T09:00:00Z");
  });
});
