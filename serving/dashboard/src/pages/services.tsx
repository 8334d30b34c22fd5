/** How services are: the newest minute of each, error rates over the range, and one of them in detail. */
import { age, clock, compact, decimal, milliseconds, percent } from "../format";
import { t } from "../language";
import { minutesOf } from "../range";
import { MOST_DRAWN, useHealth, usePaths, useServices, type ServiceHealth } from "../questions";
import { go, href, route } from "../route";
import { fold, perMinute, place, plus, ratio, seconds, type Column } from "../series";
import { useStore } from "../store";
import type { Anomaly, Health, SlowPath } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Fresh, Panel } from "../ui/panel";
import { Bar, Scroll, Select, Spark, Time } from "../ui/parts";
import { rangeText, useRange } from "../ui/range";

/** Of requests, where there are enough of them to tell: what conf/alerts.yaml warns of. */
const MANY_ERRORS = 0.05;
const ENOUGH = 20;

export function Services() {
  const range = useRange();
  const services = useServices();
  const names = (services.data ?? []).map((one) => one.service).slice(0, MOST_DRAWN);
  const asked = useStore(route).params.get("service");
  const busiest = services.data?.reduce<Health | null>((a, b) => (a && a.requests >= b.requests ? a : b), null);
  const service = asked && names.includes(asked) ? asked : (busiest?.service ?? null);
  const health = useHealth(range, names);
  const minutes = "last" in range ? Math.min(minutesOf(range), 1440) : 60;
  const paths = usePaths(service, minutes);
  const note = (
    <>
      {rangeText(range)}
      <Fresh ageS={health.data?.ageS ?? null} at={health.at} />
    </>
  );
  const none = (data: ServiceHealth) => [...data.rows.values()].every((found) => found.length === 0);
  // The charts wait for the list; where it fails they would wait for ever.
  const drawn = services.problem && !services.data ? { ...health, problem: services.problem } : health;
  return (
    <>
      <Panel
        title={t("services.newest")}
        note={t("services.newestNote")}
        class="full"
        query={services}
        empty={(data) => data.length === 0}
        emptyText={t("services.none")}
      >
        {(data) => <ServiceTable of={data} chosen={service} health={health.data} />}
      </Panel>
      <Panel
        title={t("services.rates")}
        note={note}
        class="half"
        query={drawn}
        empty={none}
        emptyText={t("services.noneInRange")}
        tools={
          service && (
            <Select
              label={t("services.service")}
              value={service}
              choose={(chosen) => go({ service: chosen })}
              of={names.map((value) => ({ value, label: value }))}
            />
          )
        }
      >
        {(data) => <Rates data={data} service={service} />}
      </Panel>
      <Panel
        title={t("services.durations", { service: service ?? "…" })}
        note={t("services.durationsNote")}
        class="half"
        query={drawn}
        empty={none}
        emptyText={t("services.noneInRange")}
      >
        {(data) => <Durations data={data} service={service ?? ""} />}
      </Panel>
      <Panel
        title={t("services.requests", { service: service ?? "…" })}
        note={t("services.requestsNote")}
        class="half"
        query={drawn}
        empty={none}
        emptyText={t("services.noneInRange")}
        tools={service && <a href={href("logs", { service, level: "error" })}>{t("services.errorLogs")}</a>}
      >
        {(data) => <Requests data={data} service={service ?? ""} />}
      </Panel>
      <Panel
        title={t("services.slowest", { service: service ?? "…" })}
        note={t("services.slowestNote", { age: age(minutes * 60) })}
        class="half"
        query={services.problem && !services.data ? { ...paths, problem: services.problem } : paths}
        empty={(data) => data.length === 0}
        emptyText={t("services.noPaths")}
      >
        {(data) => <Paths of={data} />}
      </Panel>
    </>
  );
}

export function ServiceTable(props: { of: readonly Health[]; chosen?: string | null; health?: ServiceHealth | undefined }) {
  const { of, chosen, health } = props;
  const sparks = useDrawn(
    () => new Map([...(health?.rows ?? [])].map(([name, rows]) => [name, shapeOf(rows, health!)])),
    [health],
  );
  return (
    <Scroll label={t("services.newest")}>
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("services.service")}</th>
            <th scope="col" class="n">
              {t("services.perMinute")}
            </th>
            <th scope="col" class="n">
              {t("services.rate")}
            </th>
            {chosen !== undefined && (
              <th scope="col" class="spark-cell opt">
                {t("services.rateShape")}
              </th>
            )}
            <th scope="col" class="n opt">
              p50
            </th>
            <th scope="col" class="n">
              p95
            </th>
            <th scope="col" class="n opt">
              p99
            </th>
            <th scope="col" class="n opt">
              {t("services.minute")}
            </th>
          </tr>
        </thead>
        <tbody>
          {of.map((one) => {
            const bad = (one.error_rate ?? 0) >= MANY_ERRORS;
            const spark = sparks.get(one.service);
            return (
              <tr key={one.service} class={one.service === chosen ? "chosen" : ""}>
                <th scope="row">
                  <a
                    href={href("services", { service: one.service })}
                    aria-current={one.service === chosen ? "true" : undefined}
                  >
                    {one.service}
                  </a>
                </th>
                <td class="n">{compact(one.requests)}</td>
                <td class={bad ? "n bad" : "n"}>
                  {percent(one.error_rate)}
                  {bad && <span class="hidden"> {t("services.many")}</span>}
                </td>
                {chosen !== undefined && (
                  <td class="spark-cell opt">
                    <Spark values={spark?.values ?? []} tone={spark?.bad ? "bad" : "accent"} ceiling={0.1} />
                    {spark?.bad && <span class="hidden">{t("services.many")}</span>}
                  </td>
                )}
                <td class="n opt">{milliseconds(one.p50_ms)}</td>
                <td class="n">{milliseconds(one.p95_ms)}</td>
                <td class="n opt">{milliseconds(one.p99_ms)}</td>
                <td class="n opt">
                  <Time at={one.window_start} as={clock} />
                </td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}

const time = (row: Health) => row.window_start;

/** Errors of all requests of a step: rates of minutes cannot be averaged, their parts can be added up. */
function rateOf(rows: readonly Health[], { axis }: ServiceHealth): Column {
  return ratio(fold(axis, rows, time, (row) => row.errors, plus), fold(axis, rows, time, (row) => row.requests, plus));
}

function shapeOf(rows: readonly Health[], health: ServiceHealth): { values: Column; bad: boolean } {
  const bad = rows.some((row) => row.requests >= ENOUGH && (row.error_rate ?? 0) >= MANY_ERRORS);
  return { values: rateOf(rows, health), bad };
}

function marks(of: readonly Anomaly[], series: string, { axis }: ServiceHealth): Column {
  const column: Column = new Array<number | null>(axis.length).fill(null);
  for (const one of of) {
    const i = one.series === series ? place(axis, Date.parse(one.time)) : null;
    if (i !== null) column[i] = one.value;
  }
  return column;
}

function marked(lines: Line[], data: ServiceHealth, series: string): Line[] {
  const found = marks(data.anomalies, series, data);
  if (found.every((n) => n === null)) return lines;
  return [...lines, { label: t("chart.anomaly"), values: found, kind: "marks", tone: "bad" }];
}

function Rates({ data, service }: { data: ServiceHealth; service: string | null }) {
  const drawn = useDrawn(() => {
    const lines: Line[] = [...data.rows]
      .sort(([a], [b]) => Number(a === service) - Number(b === service))
      .map(([name, rows]) => ({
        label: name,
        values: rateOf(rows, data),
        tone: name === service ? "accent" : "muted",
        strong: name === service,
      }));
    return { xs: seconds(data.axis), lines: marked(lines, data, `service/${service}/error_rate`) };
  }, [data, service]);
  return (
    <Chart
      title={t("services.rates")}
      {...drawn}
      from={data.bounds.from}
      to={data.bounds.to}
      write={percent}
      ceiling={0.02}
      height={190}
      together="services"
    />
  );
}

function Durations({ data, service }: { data: ServiceHealth; service: string }) {
  const drawn = useDrawn(() => {
    const rows = data.rows.get(service) ?? [];
    // Percentiles cannot be added up: of a step of several minutes it is the worst of them.
    const worst = (value: (row: Health) => number | null) => fold(data.axis, rows, time, value, Math.max);
    const lines: Line[] = [
      { label: "p99", values: worst((row) => row.p99_ms), tone: "accent2" },
      { label: "p95", values: worst((row) => row.p95_ms), tone: "accent" },
      { label: "p50", values: worst((row) => row.p50_ms), tone: "muted" },
    ];
    return { xs: seconds(data.axis), lines: marked(lines, data, `service/${service}/p95_ms`) };
  }, [data, service]);
  return (
    <Chart
      title={t("services.durations", { service })}
      {...drawn}
      from={data.bounds.from}
      to={data.bounds.to}
      write={milliseconds}
      height={190}
      together="services"
    />
  );
}

function Requests({ data, service }: { data: ServiceHealth; service: string }) {
  const drawn = useDrawn(() => {
    const rows = data.rows.get(service) ?? [];
    const requests = perMinute(data.axis, rows, time, (row) => row.requests, data.now);
    const errors = perMinute(data.axis, rows, time, (row) => row.errors, data.now);
    const lines: Line[] = [
      { label: t("services.requestsMinute"), values: requests, kind: "bars", tone: "accent2" },
      { label: t("services.errorsMinute"), values: errors, kind: "bars", tone: "bad" },
    ];
    return { xs: seconds(data.axis), lines: marked(lines, data, `service/${service}/requests`) };
  }, [data, service]);
  return (
    <Chart
      title={t("services.requests", { service })}
      {...drawn}
      from={data.bounds.from}
      to={data.bounds.to}
      write={compact}
      height={190}
      together="services"
    />
  );
}

function Paths({ of }: { of: readonly SlowPath[] }) {
  const most = Math.max(...of.map((one) => one.p95_ms ?? 0), 1e-9);
  return (
    <Scroll label={t("services.paths")}>
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("services.path")}</th>
            <th scope="col" class="n">
              p95
            </th>
            <th scope="col" class="bar-cell opt">
              <span class="hidden">{t("services.relative")}</span>
            </th>
            <th scope="col" class="n opt">
              p50
            </th>
            <th scope="col" class="n opt">
              {t("services.max")}
            </th>
            <th scope="col" class="n">
              {t("services.count")}
            </th>
            <th scope="col" class="n">
              {t("services.errors")}
            </th>
          </tr>
        </thead>
        <tbody>
          {of.slice(0, 10).map((one) => (
            <tr key={one.path}>
              <th scope="row" class="mono clip" title={one.path}>
                {one.path}
              </th>
              <td class="n">{milliseconds(one.p95_ms)}</td>
              <td class="bar-cell opt">
                <Bar share={(one.p95_ms ?? 0) / most} />
              </td>
              <td class="n opt">{milliseconds(one.p50_ms)}</td>
              <td class="n opt">{milliseconds(one.max_ms)}</td>
              <td class="n">{compact(one.requests)}</td>
              <td class={one.errors > 0 ? "n bad" : "n"}>{decimal(one.errors)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
