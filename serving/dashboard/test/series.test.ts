import { describe, expect, it } from "vitest";

import { axis, fold, interpolated, line, lonely, perMinute, place, plus, ratio, seconds, summary, thinned } from "../src/series";

const at = (clock: string) => Date.parse(`2026-11-26T${clock}Z`);
const MINUTE = 60_000;

describe("steps of time", () => {
  const on = axis(at("10:02:30"), at("10:12:00"), 5 * MINUTE);

  it("begin on the clock and cover the range", () => {
    expect(seconds(on).map((s) => new Date(s * 1000).toISOString().slice(11, 16))).toEqual(["10:00", "10:05", "10:10"]);
    expect([place(on, at("10:04:59")), place(on, at("10:14:59")), place(on, at("10:15:00"))]).toEqual([0, 2, null]);
  });

  it("are half-open, and one at least", () => {
    expect(axis(0, MINUTE, MINUTE).length).toBe(1);
    expect(axis(0, MINUTE + 1, MINUTE).length).toBe(2);
    expect(axis(at("10:00:00"), at("10:00:00"), MINUTE).length).toBe(1);
  });
});

describe("rows", () => {
  const on = axis(at("10:00:00"), at("10:06:00"), 2 * MINUTE);
  const rows = [
    { time: "2026-11-26T10:01:00Z", n: 3 },
    { time: "2026-11-26T10:00:00Z", n: 1 },
    { time: "2026-11-26T10:05:00Z", n: 5 },
    { time: "2026-11-26T11:00:00Z", n: 99 },
  ];
  const time = (row: { time: string }) => row.time;

  it("fold into their steps, whatever their order; a step without rows is not known", () => {
    expect(fold(on, rows, time, (row) => row.n, plus)).toEqual([4, null, 5]);
    expect(fold(on, rows, time, (row) => row.n, Math.max)).toEqual([3, null, 5]);
  });

  it("that are missing mean that nothing happened, but not where nobody has counted yet", () => {
    const inside = rows.slice(0, 3);
    const count = (row: { n: number }) => row.n;
    expect(perMinute(on, inside, time, count, at("10:06:00"))).toEqual([2, 0, 2.5]);
    expect(perMinute(on, inside, time, count, at("10:05:30"))).toEqual([2, 0, null]);
    expect(perMinute(on, inside.slice(0, 2), time, count, at("11:00:00"))).toEqual([2, null, null]);
    expect(perMinute(on, [] as typeof rows, time, count, at("11:00:00"))).toEqual([null, null, null]);
  });

  it("give rates of sums, and none of nothing", () => {
    expect(ratio([1, 0, null, 2], [4, 0, 3, null])).toEqual([0.25, null, null, null]);
  });
});

describe("a forecast", () => {
  it("is a straight line between its points, and nothing outside them", () => {
    const on = axis(at("10:00:00"), at("10:12:00"), 2 * MINUTE);
    const points = [
      { at: at("10:08:00"), value: 8 },
      { at: at("10:03:00"), value: 3 },
    ];
    expect(interpolated(on, points)).toEqual([null, 3, 4, 6, 8, null]);
    expect(interpolated(on, [])).toEqual([null, null, null, null, null, null]);
  });
});

describe("what stands beside a picture", () => {
  it("tells the least, the most, the mean and the last that is known", () => {
    expect(summary([null, 2, 6, null, 4, null])).toEqual({ least: 2, most: 6, last: 4, mean: 4 });
    expect(summary([null, null])).toBeNull();
  });

  it("names the values that no line reaches", () => {
    expect(lonely([1, null, null, 2, null, 3, null, null, 4, 5])).toEqual([0]);
    expect(lonely([1, null, 2], 0)).toEqual([0, 2]);
    expect([lonely([null]), lonely([7])]).toEqual([[], [0]]);
  });

  it("is thinned evenly, ends kept", () => {
    expect(thinned(5, 10)).toEqual([0, 1, 2, 3, 4]);
    const kept = thinned(10_081, 60);
    expect([kept.length, kept[0], kept[59]]).toEqual([60, 0, 10_080]);
  });

  it("is a line with gaps, of finite numbers", () => {
    expect(line([0, 10, null, 5, 10], 100, 20)).toBe("M0 20L25 0L75 10L100 0");
    expect(line([0, 10, null, null, 10], 100, 20)).toBe("M0 20L25 0M100 0");
    expect(line([0, 0], 100, 20)).not.toMatch(/NaN|Infinity/);
    expect([line([], 100, 20), line([null], 100, 20)]).toEqual(["", ""]);
  });
});
