/** A layered graph: who stands where, and which nodes lie up and down the way from one. Pure; the page draws it. */
import type { LineageEdge, LineageNode } from "./types";

export const STAGES = ["topic", "bronze", "silver", "gold", "model", "made", "store"] as const;
export type Stage = (typeof STAGES)[number];

/** Pixels: a row, a box in it, between columns, of a letter, beside the letters of a box. */
export const ROW = 30;
export const BOX = 24;
const GAP = 28;
const LETTER = 7;
const MOST_LETTERS = 26;
const EDGE = 18;
/** Rows that a box may have for itself where its column has few. */
const ROOMY = 2.2;
const HEAD = 26;

export interface Place {
  readonly node: LineageNode;
  readonly label: string;
  readonly x: number;
  readonly y: number;
  readonly width: number;
}
/** The first of a system's keys stands below the system's name. */
export interface Heading {
  readonly system: string;
  readonly y: number;
}
export interface Column {
  readonly stage: Stage;
  readonly x: number;
  readonly width: number;
  readonly places: readonly Place[];
  readonly headings: readonly Heading[];
}
export interface Drawing {
  readonly columns: readonly Column[];
  readonly at: ReadonlyMap<string, Place>;
  readonly width: number;
  readonly height: number;
}

/** What a node is called in its column, whose heading says its layer. */
export function label({ name, stage, kind }: LineageNode): string {
  return kind === "table" && stage !== "made" ? name.slice(name.indexOf(".") + 1) : name;
}

/**
 * One column a stage. Within it nodes stand in the order of the mean height of what they are made from (the barycentre
 * heuristic of Sugiyama et al., 1981), which keeps lines from crossing; keys of stores stay with their system.
 */
export function draw(nodes: readonly LineageNode[], edges: readonly LineageEdge[]): Drawing {
  const sources = new Map<string, string[]>();
  for (const { source, target } of edges) sources.set(target, [...(sources.get(target) ?? []), source]);
  const rank = new Map<string, number>();
  const parts = STAGES.map((stage) => {
    const mean = (node: LineageNode) => {
      const heights = (sources.get(node.id) ?? []).map((one) => rank.get(one)).filter((one) => one !== undefined);
      return heights.length === 0 ? Infinity : heights.reduce((a, b) => a + b, 0) / heights.length;
    };
    const means = new Map(nodes.filter((node) => node.stage === stage).map((node) => [node, mean(node)]));
    const systems = [...new Set([...means.keys()].map((node) => node.system))];
    const own = [...means.keys()].sort(
      (a, b) => systems.indexOf(a.system) - systems.indexOf(b.system) || compare(means.get(a)!, means.get(b)!),
    );
    own.forEach((node, i) => rank.set(node.id, (i + 0.5) / own.length));
    return { stage, own };
  });
  const rows = ({ stage, own }: (typeof parts)[number]) =>
    own.length + (stage === "store" ? new Set(own.map((node) => node.system)).size : 0);
  const most = Math.max(...parts.map(rows), 1);
  const at = new Map<string, Place>();
  let x = 0;
  const columns = parts.map((part) => {
    const letters = Math.max(...part.own.map((node) => label(node).length), 8);
    const width = EDGE + LETTER * Math.min(letters, MOST_LETTERS);
    const step = ROW * Math.min(most / Math.max(rows(part), 1), ROOMY);
    let y = HEAD + (most * ROW - (rows(part) - 1) * step - ROW) / 2;
    let system = "";
    const headings: Heading[] = [];
    const places = part.own.map((node) => {
      if (part.stage === "store" && node.system !== system) {
        system = node.system;
        headings.push({ system, y });
        y += step;
      }
      const place = { node, label: label(node), x, y, width };
      at.set(node.id, place);
      y += step;
      return place;
    });
    const column = { stage: part.stage, x, width, places, headings };
    x += width + GAP;
    return column;
  });
  return { columns, at, width: x - GAP, height: HEAD + most * ROW };
}

function compare(a: number, b: number): number {
  return a === b ? 0 : a < b ? -1 : 1;
}

/** From the right edge of a box to the left one of another. */
export function curve(from: Place, to: Place): string {
  const [x1, y1] = [from.x + from.width, from.y + BOX / 2];
  const [x2, y2] = [to.x, to.y + BOX / 2];
  const half = (x1 + x2) / 2;
  return `M${x1} ${y1}C${half} ${y1} ${half} ${y2} ${x2} ${y2}`;
}

/** A node with all that it is made from and all that is made from it. */
export function related(id: string, edges: readonly LineageEdge[]): ReadonlySet<string> {
  const walk = (from: "source" | "target", to: "source" | "target") => {
    const found = new Set([id]);
    // A set grows while it is gone through.
    for (const one of found) for (const edge of edges) if (edge[from] === one) found.add(edge[to]);
    return found;
  };
  return new Set([...walk("target", "source"), ...walk("source", "target")]);
}
