/** A chart over time: uPlot on a canvas, its legend with the values under the cursor, and its numbers as a table. */
import { useEffect, useMemo, useRef, useState } from "preact/hooks";
import uPlot from "uplot";
import "uplot/dist/uPlot.min.css";

import { clock, clockSeconds, day, dayClock, moment, utc } from "../format";
import { language, t } from "../language";
import { setRange } from "../route";
import { bridged, lonely, summary, thinned, type Column } from "../series";
import { useStore } from "../store";
import { painted } from "../theme";
import { Scroll, type Tone } from "./parts";

export interface Line {
  readonly label: string;
  readonly values: Column;
  /** `marks` are single points that stand out; `edge` is the border of a band and has no line of its own. */
  readonly kind?: "line" | "area" | "bars" | "dashes" | "marks" | "edge";
  readonly tone?: Tone;
  /** What the legend and the table say, where that is not what is drawn (bars that stand on others). */
  readonly said?: Column;
  /** Of a line among others that matters most. */
  readonly strong?: boolean;
}

interface Props {
  readonly title: string;
  /** Seconds since 1970. */
  readonly xs: readonly number[];
  readonly lines: readonly Line[];
  /** Places in `lines` of the upper and the lower edge of a band. */
  readonly band?: readonly [number, number];
  /** Milliseconds. */
  readonly from: number;
  readonly to: number;
  readonly write: (n: number | null) => string;
  /** Without one it takes the room that there is. */
  readonly height?: number;
  /** The y axis goes up to here at least. */
  readonly ceiling?: number;
  /** The y axis goes up to here at most. */
  readonly limit?: number;
  /** Where a line says that from there on it is not known but expected. */
  readonly now?: number | undefined;
  /** Charts with the same name move their cursors together. */
  readonly together?: string;
  readonly legend?: boolean;
  readonly zoom?: boolean;
}

const TABLE_ROWS = 60;

/** What is drawn of data, made anew only when they are others: pages are drawn every second, for their ages. */
export function useDrawn<T>(make: () => T, data: readonly unknown[]): T {
  return useMemo(make, [language.get(), ...data]);
}

interface Paint {
  readonly of: (tone: Tone, alpha?: number) => string;
  readonly text: string;
  readonly grid: string;
  readonly surface: string;
  readonly font: string;
}

function paint(): Paint {
  const style = getComputedStyle(document.documentElement);
  const colour = (name: string) => style.getPropertyValue(`--${name}`).trim();
  return {
    of: (tone, alpha = 1) => {
      const [r, g, b] = channels(colour(`chart-${tone}`));
      return `rgba(${r}, ${g}, ${b}, ${alpha})`;
    },
    text: colour("text-3"),
    grid: colour("grid"),
    surface: colour("surface"),
    font: `11px ${style.getPropertyValue("font-family") || "sans-serif"}`,
  };
}

function channels(hex: string): [number, number, number] {
  const n = Number.parseInt(hex.slice(1), 16);
  return [(n >> 16) & 255, (n >> 8) & 255, n & 255];
}

export function Chart(props: Props) {
  const { title, xs, lines, band, height, write, legend = true } = props;
  const box = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot | null>(null);
  const newest = useRef(props);
  newest.current = props;
  const readout = useRef<HTMLElement>(null);
  const colours = useStore(painted);
  const speaking = useStore(language);
  const [at, setAt] = useState<number | null>(null);

  // A new plot only where its build is another one; new numbers are given to the plot that is there.
  const build = JSON.stringify([
    lines.map(({ label, kind, tone, strong }) => [label, kind, tone, strong]),
    band,
    height,
    props.together,
    colours,
    speaking,
  ]);

  useEffect(() => {
    const root = box.current!;
    const brush = paint();
    const size = () => ({ width: Math.max(root.clientWidth, 120), height: height ?? Math.max(root.clientHeight, 120) });
    const options: uPlot.Options = {
      ...size(),
      padding: [8, 16, 0, 0],
      legend: { show: false },
      cursor: {
        y: false,
        drag: { x: newest.current.zoom !== false, y: false, setScale: false },
        points: { size: 7, width: 1.5, fill: () => brush.surface },
        ...(props.together ? { sync: { key: props.together, setSeries: false } } : {}),
      },
      scales: {
        x: { time: true, range: () => [newest.current.from / 1000, newest.current.to / 1000] },
        y: {
          range: (_, __, most) => {
            const { ceiling = 0, limit = Infinity } = newest.current;
            const top = Math.max(Number.isFinite(most) ? most : 0, ceiling);
            if (top <= 0) return [0, 1];
            return [0, Math.min(uPlot.rangeNum(0, top, 0.08, true)[1] ?? top, limit)];
          },
        },
      },
      axes: [
        {
          stroke: brush.text,
          font: brush.font,
          grid: { show: false },
          ticks: { stroke: brush.grid, width: 1, size: 4 },
          space: 72,
          gap: 4,
          size: 26,
          values: (_, splits, __, ___, step) => splits.map((s) => tick(s, step)),
        },
        {
          stroke: brush.text,
          font: brush.font,
          grid: { stroke: brush.grid, width: 1 },
          ticks: { show: false },
          border: { show: false },
          space: 34,
          gap: 6,
          size: (_, values) => 14 + 6.4 * Math.max(3, ...(values ?? []).map((text) => text.length)),
          values: (_, splits) => splits.map((n) => newest.current.write(n)),
        },
      ],
      series: [{}, ...lines.map((line) => series(line, brush))],
      ...(band
        ? { bands: [{ series: [band[0] + 1, band[1] + 1] as [number, number], fill: brush.of("accent", 0.14) }] }
        : {}),
      hooks: {
        setCursor: [(u) => setAt(u.cursor.idx ?? null)],
        setSelect: [
          (u) => {
            if (u.select.width < 8) return;
            const from = Math.round(u.posToVal(u.select.left, "x")) * 1000;
            const to = Math.round(u.posToVal(u.select.left + u.select.width, "x")) * 1000;
            u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
            if (to > from) setRange({ from, to });
          },
        ],
        drawAxes: [(u) => drawNow(u, newest.current.now, brush)],
        draw: [(u) => drawMarks(u, newest.current.lines, brush)],
      },
    };
    const made = new uPlot(options, data(newest.current), root);
    plot.current = made;
    const watch = new ResizeObserver(() => {
      const { width, height } = size();
      if (made.width !== width || made.height !== height) made.setSize({ width, height });
    });
    watch.observe(root);
    return () => {
      watch.disconnect();
      made.destroy();
      plot.current = null;
      setAt(null);
    };
  }, [build]);

  useEffect(() => {
    plot.current?.setData(data(newest.current));
  }, [build, xs, ...lines.map((line) => line.values), props.from, props.to, props.now, props.ceiling]);

  const said = lines.filter((line) => line.kind !== "edge");
  const label = useMemo(() => describe(title, said, write), [title, speaking, ...lines.map((line) => line.values)]);
  const shown = at ?? lastKnown(said);
  const value = shown === null ? "" : reading(xs, said, shown, write);

  const move = (event: KeyboardEvent) => {
    const u = plot.current;
    if (!u) return;
    const here = shown ?? xs.length - 1;
    const steps: Record<string, number> = {
      ArrowLeft: here - 1,
      ArrowRight: here + 1,
      PageUp: here - 10,
      PageDown: here + 10,
      Home: 0,
      End: xs.length - 1,
    };
    const to = steps[event.key];
    if (to === undefined) {
      if (event.key === "Escape") u.setCursor({ left: -10, top: -10 });
      return;
    }
    event.preventDefault();
    const i = Math.min(Math.max(to, 0), xs.length - 1);
    u.setCursor({ left: u.valToPos(xs[i]!, "x"), top: 8 });
  };

  return (
    <figure class={height === undefined ? "chart fill" : "chart"}>
      {legend && (
        <figcaption class="legend" ref={readout}>
          <ul>
            {said.map((line) => {
              const n = at === null ? null : ((line.said ?? line.values)[at] ?? null);
              if (line.kind === "marks" && at !== null && n === null) return null;
              return (
                <li key={line.label}>
                  <i class={`key key-${line.kind ?? "line"} tone-${line.tone ?? "accent"}`} />
                  {line.label}
                  {at !== null && <b>{write(n)}</b>}
                </li>
              );
            })}
            {band && (
              <li>
                <i class="key key-band tone-accent" />
                {t("chart.band")}
                {at !== null && edges(lines, band, at, write)}
              </li>
            )}
          </ul>
          <span class="legend-time" title={at !== null && xs[at] !== undefined ? utc(xs[at]! * 1000) : undefined}>
            {at !== null && xs[at] !== undefined ? moment(xs[at]! * 1000) : ""}
          </span>
        </figcaption>
      )}
      <div
        class="plot"
        ref={box}
        tabIndex={0}
        role="slider"
        aria-label={label}
        aria-orientation="horizontal"
        aria-valuemin={0}
        aria-valuemax={Math.max(xs.length - 1, 0)}
        aria-valuenow={shown ?? 0}
        aria-valuetext={value}
        onKeyDown={move}
        onBlur={() => plot.current?.setCursor({ left: -10, top: -10 })}
      />
      <Numbers title={title} xs={xs} lines={lines} write={write} />
    </figure>
  );
}

function data({ xs, lines }: Props): uPlot.AlignedData {
  return [xs as number[], ...lines.map((line) => line.values)];
}

function series({ kind = "line", tone = "accent", strong = true }: Line, brush: Paint): uPlot.Series {
  const plain = { points: { show: false }, spanGaps: false, gaps: long };
  switch (kind) {
    case "edge":
      return { ...plain, width: 0, stroke: "transparent", points: { show: false } };
    case "marks":
      return { ...plain, paths: () => null, stroke: brush.of(tone), points: { show: false } };
    case "bars": {
      const bars = uPlot.paths.bars!({ size: [0.86, 48], align: 1, radius: 0 });
      return { ...plain, paths: bars, stroke: brush.of(tone), fill: brush.of(tone), width: 0 };
    }
    case "area":
      return { ...plain, stroke: brush.of(tone), fill: brush.of(tone, 0.12), width: 1.5, points: alone(brush.of(tone)) };
    case "dashes":
      return { ...plain, stroke: brush.of(tone), width: 1.5, dash: [4, 4] };
    default:
      return {
        ...plain,
        stroke: brush.of(tone, strong ? 1 : 0.7),
        width: strong ? 1.75 : 1,
        points: alone(brush.of(tone)),
      };
  }
}

/** The gaps that are not drawn over; uPlot has them as canvas pixels. */
function long(u: uPlot, _: number, __: number, ___: number, gaps: [number, number][]): [number, number][] {
  const xs = u.data[0];
  const [first, last] = [xs[0], xs[xs.length - 1]];
  if (first === undefined || last === undefined || last <= first) return gaps;
  const step = (u.valToPos(last, "x", true) - u.valToPos(first, "x", true)) / (xs.length - 1);
  // A gap reaches from the value before to the value after it: a step more than is missing.
  return gaps.filter(([from, to]) => to - from > step * (bridged(xs.length) + 1.5));
}

/** A value between two long gaps is no line: it is shown as a point. */
function alone(colour: string): uPlot.Series.Points {
  return { show: true, size: 4, width: 0, fill: colour, filter: (u, i) => lonely(u.data[i] as Column) };
}

function drawNow(u: uPlot, now: number | undefined, brush: Paint): void {
  if (now === undefined) return;
  const x = Math.round(u.valToPos(now / 1000, "x", true));
  const { left, top, width, height } = u.bbox;
  if (x < left || x > left + width) return;
  const { ctx } = u;
  ctx.save();
  ctx.strokeStyle = brush.text;
  ctx.globalAlpha = 0.5;
  ctx.lineWidth = devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(x, top);
  ctx.lineTo(x, top + height);
  ctx.stroke();
  ctx.restore();
}

/** Diamonds: told apart by their form, not by colour alone. */
function drawMarks(u: uPlot, lines: readonly Line[], brush: Paint): void {
  const { ctx } = u;
  const r = 5 * devicePixelRatio;
  lines.forEach((line, s) => {
    if (line.kind !== "marks") return;
    ctx.save();
    ctx.lineWidth = 2 * devicePixelRatio;
    ctx.strokeStyle = brush.of(line.tone ?? "bad");
    ctx.fillStyle = brush.surface;
    line.values.forEach((n, i) => {
      const at = u.data[0][i];
      if (n === null || at === undefined) return;
      const x = u.valToPos(at, "x", true);
      const y = u.valToPos(n, u.series[s + 1]?.scale ?? "y", true);
      if (x < u.bbox.left - r || x > u.bbox.left + u.bbox.width + r) return;
      ctx.beginPath();
      ctx.moveTo(x, y - r);
      ctx.lineTo(x + r, y);
      ctx.lineTo(x, y + r);
      ctx.lineTo(x - r, y);
      ctx.closePath();
      ctx.fill();
      ctx.stroke();
    });
    ctx.restore();
  });
}

function tick(s: number, step: number): string {
  const ms = s * 1000;
  if (step >= 86400) return day(ms);
  const at = new Date(ms);
  if (at.getHours() === 0 && at.getMinutes() === 0 && at.getSeconds() === 0) return day(ms);
  return step < 60 ? clockSeconds(ms) : clock(ms);
}

function lastKnown(lines: readonly Line[]): number | null {
  let last: number | null = null;
  for (const { values } of lines) {
    for (let i = values.length - 1; i > (last ?? -1); i--) {
      if (values[i] != null) last = i;
    }
  }
  return last;
}

function reading(xs: readonly number[], lines: readonly Line[], i: number, write: Props["write"]): string {
  const parts = lines
    .map((line) => ({ label: line.label, n: (line.said ?? line.values)[i] ?? null, kind: line.kind }))
    .filter(({ n, kind }) => n !== null || kind !== "marks")
    .map(({ label, n }) => `${label} ${write(n)}`);
  return `${dayClock((xs[i] ?? 0) * 1000)}: ${parts.join(", ")}`;
}

function edges(lines: readonly Line[], [hi, lo]: readonly [number, number], i: number, write: Props["write"]) {
  const most = lines[hi]?.values[i] ?? null;
  const least = lines[lo]?.values[i] ?? null;
  return most === null || least === null ? null : <b>{`${write(least)}–${write(most)}`}</b>;
}

/** The text that stands for the picture. */
function describe(title: string, lines: readonly Line[], write: Props["write"]): string {
  const parts = lines.map((line) => {
    const column = line.said ?? line.values;
    const found = summary(column);
    if (line.kind === "marks") {
      return t("chart.marks", { label: line.label, n: column.filter((n) => n !== null).length });
    }
    if (!found) return t("chart.none", { label: line.label });
    const { least, most, last } = found;
    return t("chart.summary", { label: line.label, least: write(least), most: write(most), last: write(last) });
  });
  return `${title}. ${parts.join(" ")}`;
}

/** The chart's numbers, for who cannot see it or wants to copy them. */
function Numbers({ title, xs, lines, write }: Pick<Props, "title" | "xs" | "lines" | "write">) {
  const [open, setOpen] = useState(false);
  return (
    <details class="numbers" onToggle={(event) => setOpen(event.currentTarget.open)}>
      <summary>{t("chart.table")}</summary>
      {open && (
        <Scroll label={t("chart.table.of", { title })}>
          <table>
            <caption class="hidden">{title}</caption>
            <thead>
              <tr>
                <th scope="col">{t("chart.time")}</th>
                {lines.map((line) => (
                  <th key={line.label} scope="col" class="n">
                    {line.label}
                  </th>
                ))}
              </tr>
            </thead>
            <tbody>
              {thinned(xs.length, TABLE_ROWS).map((i) => (
                <tr key={xs[i]}>
                  <th scope="row" title={utc(xs[i]! * 1000)}>
                    {dayClock(xs[i]! * 1000)}
                  </th>
                  {lines.map((line) => (
                    <td key={line.label} class="n">
                      {write((line.said ?? line.values)[i] ?? null)}
                    </td>
                  ))}
                </tr>
              ))}
            </tbody>
          </table>
        </Scroll>
      )}
    </details>
  );
}
