/** The questions that pages ask, by the tables that answer them. */
import { get, getAt, Problem, rows, type Answer, type Params } from "./api";
import { saw, site, trending } from "./now";
import { useQuery, type Query } from "./query";
import { bounds, minutesOf, rangeKey, rfc3339, stepOf, stepParam, type Bounds, type Range } from "./range";
import { axis, type Axis } from "./series";
import { useStore } from "./store";
import type {
  ActivityRow,
  Anomaly,
  Forecast,
  Health,
  Host,
  KeptReport,
  Lineage,
  LineageOf,
  Page,
  Site,
  SlowPath,
  Status,
  TableSize,
  Trending,
  Utilization,
} from "./types";

/** What was asked of a span, and how it is cut into steps. */
export interface Spanned<T> {
  readonly rows: T;
  readonly ageS: number | null;
  readonly bounds: Bounds;
  readonly axis: Axis;
  /** When it was asked, by our clock. */
  readonly now: number;
  /** There were more rows than were asked for: the oldest are missing. */
  readonly cut: boolean;
}

/** A span as parameters; one that is open has no end, as what comes next belongs to it. */
export function times({ from, to, open }: Bounds): { from: string; to: string | null } {
  return { from: rfc3339(from), to: open ? null : rfc3339(to) };
}

interface Asking<R> {
  readonly now: number;
  readonly bounds: Bounds;
  readonly axis: Axis;
  /** The parameters that say it. */
  readonly asked: Params;
  /** Steps that there can be. */
  readonly most: number;
  readonly of: (answer: Answer<R[]>, limit: number) => Spanned<R[]>;
}

function spanned<R>(range: Range): Asking<R> {
  const now = Date.now();
  const span = bounds(range, now);
  const steps = axis(span.from, span.to, stepOf(range));
  return {
    now,
    bounds: span,
    // The first step is whole, as those after it are.
    asked: { ...times({ ...span, from: steps.start }), step: stepParam(range) },
    most: steps.length + 1,
    axis: steps,
    of: ({ body, ageS }, limit) => ({ rows: body, ageS, bounds: span, axis: steps, now, cut: body.length >= limit }),
  };
}

const TYPES = 16;

export function useActivity(range: Range): Query<Spanned<ActivityRow[]>> {
  return useQuery(
    `activity ${rangeKey(range)}`,
    async (signal) => {
      const span = spanned<ActivityRow>(range);
      const limit = span.most * TYPES;
      const select = "window_start,event_type,events,users";
      return span.of(await rows("/activity", { ...span.asked, select, limit }, signal), limit);
    },
    { tables: ["gold.activity_minute"], gapMs: gap(range) },
  );
}

/** A long span is much to read, and changes little. */
function gap(range: Range): number {
  return minutesOf(range) > 24 * 60 ? 60_000 : minutesOf(range) > 360 ? 20_000 : 8000;
}

export function useSite(): { site: Site | null; query: Query<Site> } {
  const query = useQuery(
    "live",
    async (signal) => {
      const { body } = await get<Site>("/activity/live", {}, signal);
      saw(body);
      return body;
    },
    { everyMs: 15_000 },
  );
  return { site: useStore(site) ?? query.data ?? null, query };
}

/** Posts that draw attention now; the stream shows those of the whole site. */
export function useTrending(limit: number, part: { device?: string; referrer?: string } = {}): Query<Trending[]> {
  const whole = !part.device && !part.referrer;
  const query = useQuery(
    `trending ${limit} ${part.device ?? ""} ${part.referrer ?? ""}`,
    async (signal) => (await get<Page<Trending>>("/posts/trending", { ...part, limit }, signal)).body.data,
    { everyMs: 15_000 },
  );
  const told = useStore(trending);
  // The stream may show fewer than are wanted here.
  if (whole && told && query.data && told.length >= Math.min(limit, query.data.length)) {
    return { ...query, data: told.slice(0, limit), problem: undefined };
  }
  return query;
}

export function useServices(): Query<Health[]> {
  return useQuery(
    "services",
    async (signal) => (await get<Page<Health>>("/services", {}, signal)).body.data,
    { tables: ["gold.service_health_minute"] },
  );
}

/** So many services and hosts are drawn; there may be more. */
export const MOST_DRAWN = 24;
const AT_ONCE = 6;

export async function all<T, R>(items: readonly T[], ask: (item: T) => Promise<R>): Promise<R[]> {
  const found: R[] = new Array<R>(items.length);
  let next = 0;
  const worker = async () => {
    while (next < items.length) {
      const i = next++;
      found[i] = await ask(items[i]!);
    }
  };
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, items.length) }, worker));
  return found;
}

export interface ServiceHealth extends Spanned<ReadonlyMap<string, Health[]>> {
  readonly anomalies: readonly Anomaly[];
}

export function useHealth(range: Range, names: readonly string[]): Query<ServiceHealth> {
  return useQuery(
    names.length === 0 ? null : `health ${rangeKey(range)} ${names.join()}`,
    async (signal) => {
      const span = spanned<Health>(range);
      const limit = span.most;
      const select = "window_start,requests,errors,error_rate,p50_ms,p95_ms,p99_ms";
      const [found, anomalies] = await Promise.all([
        all(names, (name) =>
          rows<Health>(`/services/${encodeURIComponent(name)}/health`, { ...span.asked, select, limit }, signal),
        ),
        anomaliesOf("service/", span.bounds, signal),
      ]);
      return {
        ...span.of({ body: [], ageS: found[0]?.ageS ?? null }, Infinity),
        rows: new Map(names.map((name, i) => [name, found[i]!.body])),
        anomalies,
      };
    },
    { tables: ["gold.service_health_minute", "gold.anomalies"], gapMs: gap(range) },
  );
}

async function anomaliesOf(part: string, span: Bounds, signal: AbortSignal): Promise<Anomaly[]> {
  const filter = [`series:contains:${part}`];
  return (await rows<Anomaly>("/anomalies", { ...times(span), filter, limit: 2000 }, signal)).body;
}

export function usePaths(service: string | null, minutes: number): Query<SlowPath[]> {
  return useQuery(
    service === null ? null : `paths ${service} ${minutes}`,
    async (signal) =>
      (await get<Page<SlowPath>>(`/services/${encodeURIComponent(service!)}/paths`, { minutes }, signal)).body.data,
    { tables: ["silver.service_logs"], gapMs: 20_000 },
  );
}

export function useHosts(): Query<Host[]> {
  return useQuery("hosts", async (signal) => (await get<Page<Host>>("/hosts", {}, signal)).body.data, {
    tables: ["gold.host_utilization_minute"],
    gapMs: 10_000,
  });
}

export interface HostSeries extends Spanned<ReadonlyMap<string, Utilization[]>> {
  readonly forecasts: readonly Forecast[];
  readonly anomalies: readonly Anomaly[];
}

export function useUtilization(range: Range, hosts: readonly string[], metric: string): Query<HostSeries> {
  return useQuery(
    hosts.length === 0 ? null : `hosts ${rangeKey(range)} ${metric} ${hosts.join()}`,
    async (signal) => {
      const span = spanned<Utilization>(range);
      // What is expected may lie ahead: as far as a third of what is looked back on.
      const ahead = span.bounds.open ? (span.bounds.to - span.bounds.from) / 3 : 0;
      const shown = { ...span.bounds, to: span.bounds.to + ahead };
      const filter = [`series:contains:/${metric}`];
      const [found, forecasts, anomalies] = await Promise.all([
        all(hosts, (host) =>
          rows<Utilization>(
            `/hosts/${encodeURIComponent(host)}/utilization`,
            {
              ...span.asked,
              select: "window_start,avg,max",
              filter: [`metric:eq:${metric}`],
              limit: span.most,
            },
            signal,
          ),
        ),
        rows<Forecast>("/forecasts", { ...times(span.bounds), filter, limit: 20_000 }, signal),
        anomaliesOf(`/${metric}`, span.bounds, signal),
      ]);
      const newest = Math.max(0, ...forecasts.body.map((one) => Date.parse(one.time)));
      const to = Math.max(span.bounds.to, Math.min(shown.to, newest));
      return {
        ...span.of({ body: [], ageS: found[0]?.ageS ?? null }, Infinity),
        bounds: { ...span.bounds, to },
        axis: axis(span.bounds.from, to, stepOf(range)),
        rows: new Map(hosts.map((host, i) => [host, found[i]!.body])),
        forecasts: forecasts.body,
        anomalies,
      };
    },
    { tables: ["gold.host_utilization_minute", "gold.forecasts", "gold.anomalies"], gapMs: gap(range) },
  );
}

/** Days whose reports are kept, the newest first. */
export function useReports(): Query<KeptReport[]> {
  return useQuery("reports", async (signal) => (await getAt<Page<KeptReport>>("/reports?limit=8", signal)).body.data, {
    everyMs: 300_000,
  });
}

export function useStatus(): Query<Status> {
  return useQuery("status", async (signal) => (await get<Status>("/status", {}, signal)).body, {
    tables: ["gold.activity_minute", "gold.service_health_minute", "gold.host_utilization_minute"],
    everyMs: 10_000,
  });
}

/** What is made from what; versions move all the time, the graph with a release. */
export function useLineage(): Query<Lineage> {
  return useQuery("lineage", async (signal) => (await get<Lineage>("/lineage", {}, signal)).body, { everyMs: 60_000 });
}

export function useLineageOf(id: string | null): Query<LineageOf> {
  return useQuery(
    id === null ? null : `lineage ${id}`,
    async (signal) => (await get<LineageOf>(`/lineage/${encodeURIComponent(id!)}`, {}, signal)).body,
    { everyMs: 15_000 },
  );
}

/** Rows and bytes of the tables that the token may read, by name. */
export function useSizes(): Query<ReadonlyMap<string, TableSize>> {
  return useQuery(
    "tables",
    async (signal) => {
      const { body } = await get<Page<{ name: string }>>("/tables", {}, signal);
      const found = await all(body.data, async ({ name }) => {
        try {
          return (await get<TableSize>(`/tables/${encodeURIComponent(name)}`, {}, signal)).body;
        } catch (error) {
          // A table that is not there yet, or a lake that is away, which the page says already.
          if (error instanceof Problem && error.status !== 401) return null;
          throw error;
        }
      });
      return new Map(found.filter((one) => one !== null).map((one) => [one.name, one]));
    },
    { everyMs: 60_000 },
  );
}
