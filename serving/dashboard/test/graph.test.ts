import { describe, expect, it } from "vitest";

import { draw, label, related, ROW } from "../src/graph";
import type { LineageNode } from "../src/types";

const node = (id: string, stage: LineageNode["stage"], kind: LineageNode["kind"] = "table", system = "delta"): LineageNode => ({
  id, stage, kind, system, name: kind === "table" ? id : id.slice(id.indexOf(":") + 1), job: "x", version: null,
  batch: null, behind: null, at: null,
});
const NODES = [
  node("kafka:a", "topic", "topic", "kafka"),
  node("kafka:b", "topic", "topic", "kafka"),
  node("bronze.b", "bronze"),
  node("bronze.a", "bronze"),
  node("gold.a", "gold"),
  node("ops.x", "made"),
  node("redis:gold:a:latest", "store", "store", "redis"),
  node("mongodb:a", "store", "store", "mongodb"),
  node("redis:b", "store", "store", "redis"),
];
const EDGES = [
  ["kafka:a", "bronze.a"],
  ["kafka:b", "bronze.b"],
  ["bronze.a", "gold.a"],
  ["gold.a", "mongodb:a"],
  ["gold.a", "redis:gold:a:latest"],
  ["kafka:b", "redis:b"],
].map(([source, target]) => ({ source: source!, target: target! }));

describe("the drawing of a graph", () => {
  it("puts every edge from left to right, and no box onto another", () => {
    const { at, width, height } = draw(NODES, EDGES);
    expect(at.size).toBe(NODES.length);
    for (const { source, target } of EDGES) {
      expect(at.get(source)!.x + at.get(source)!.width).toBeLessThan(at.get(target)!.x);
    }
    const places = [...at.values()];
    for (const one of places) {
      expect(one.x + one.width).toBeLessThanOrEqual(width);
      expect(one.y + ROW).toBeLessThanOrEqual(height);
      expect(places.filter((other) => other.x === one.x && Math.abs(other.y - one.y) < ROW)).toEqual([one]);
    }
  });

  it("orders nodes as what they are made from, so that lines need not cross", () => {
    const { at } = draw(NODES, EDGES);
    expect(at.get("bronze.a")!.y).toBeLessThan(at.get("bronze.b")!.y);
  });

  it("keeps a store's keys together under its name", () => {
    const stores = draw(NODES, EDGES).columns.at(-1)!;
    expect(stores.places.map((one) => one.node.system)).toEqual(["redis", "redis", "mongodb"]);
    expect(stores.headings.map((one) => one.system)).toEqual(["redis", "mongodb"]);
  });

  it("calls tables by their layer only where the column does not", () => {
    expect(NODES.map(label)).toEqual(["a", "b", "b", "a", "a", "ops.x", "gold:a:latest", "a", "b"]);
  });
});

it("related nodes are all up and all down the way, and not those beside it", () => {
  expect([...related("gold.a", EDGES)].sort()).toEqual(
    ["bronze.a", "gold.a", "kafka:a", "mongodb:a", "redis:gold:a:latest"],
  );
  expect([...related("ops.x", EDGES)]).toEqual(["ops.x"]);
});
