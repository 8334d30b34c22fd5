/** How busy hosts are: now, over the range, and what is expected; what was unusual is marked. */
import { percent } from "../format";
import { t } from "../language";
import { MOST_DRAWN, useHosts, useUtilization, type HostSeries } from "../questions";
import { MINUTE } from "../range";
import { go, href, route } from "../route";
import { fold, interpolated, place, seconds, summary, type Column } from "../series";
import { useStore } from "../store";
import type { Forecast, Host } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Fresh, Panel } from "../ui/panel";
import { Ago, Bar, Scroll, Segments, type Tone } from "../ui/parts";
import { rangeText, useRange } from "../ui/range";

const METRICS = {
  cpu: "system.cpu.total.norm.pct",
  memory: "system.memory.actual.used.pct",
  disk: "system.filesystem.used.pct",
} as const;
type Metric = keyof typeof METRICS;
const NAMES = Object.keys(METRICS) as Metric[];
/** Shares above which a person should look, and should act; conf/alerts.yaml has the rules that tell them. */
const BUSY = 0.8;
const FULL = 0.92;

export function Hosts() {
  const range = useRange();
  const { params } = useStore(route);
  const metric = NAMES.find((one) => one === params.get("metric")) ?? "cpu";
  const hosts = useHosts();
  const names = (hosts.data ?? []).map((one) => one.host);
  const only = names.find((one) => one === params.get("host")) ?? null;
  const shown = (only === null ? names : [only]).slice(0, MOST_DRAWN);
  const found = useUtilization(range, shown, METRICS[metric]);
  return (
    <>
      <Panel
        title={t("hosts.now")}
        note={t("hosts.nowNote")}
        class="full"
        query={hosts}
        empty={(data) => data.length === 0}
        emptyText={t("hosts.none")}
        tools={
          only !== null && (
            <button type="button" class="button small" onClick={() => go({ host: null })}>
              {t("hosts.all")}
            </button>
          )
        }
      >
        {(data) => <HostTable of={data} chosen={only} />}
      </Panel>
      <Panel
        title={t("hosts.over", { metric: t(`hosts.${metric}`) })}
        note={
          <>
            {rangeText(range)}
            <Fresh ageS={found.data?.ageS ?? null} at={found.at} />
          </>
        }
        class="full"
        size="l"
        query={hosts.problem && !hosts.data ? { ...found, problem: hosts.problem } : found}
        empty={(data) => [...data.rows.values()].every((rows) => rows.length === 0)}
        emptyText={t("hosts.noneInRange")}
        tools={
          <Segments
            name="metric"
            label={t("hosts.metric")}
            value={metric}
            choose={(chosen) => go({ metric: chosen })}
            of={NAMES.map((value) => ({ value, label: t(`hosts.${value}`) }))}
          />
        }
      >
        {(data) => (
          <div class={data.rows.size === 1 ? "charts one" : "charts"}>
            {[...data.rows.keys()].map((host) => (
              <HostChart key={host} host={host} data={data} metric={metric} large={data.rows.size === 1} />
            ))}
          </div>
        )}
      </Panel>
    </>
  );
}

function toneOf(share: number | null): Tone {
  return share === null || share < BUSY ? "accent" : share < FULL ? "warn" : "bad";
}

function HostTable({ of, chosen }: { of: readonly Host[]; chosen: string | null }) {
  return (
    <Scroll label={t("hosts.now")}>
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("hosts.host")}</th>
            {NAMES.map((name) => (
              <th key={name} scope="col" class="meter">
                {t(`hosts.${name}`)}
              </th>
            ))}
            <th scope="col" class="n opt">
              {t("hosts.seen")}
            </th>
          </tr>
        </thead>
        <tbody>
          {of.map((one) => (
            <tr key={one.host} class={one.host === chosen ? "chosen" : ""}>
              <th scope="row">
                <a href={href("hosts", { host: one.host })} aria-current={one.host === chosen ? "true" : undefined}>
                  {one.host}
                </a>
              </th>
              {NAMES.map((name) => (
                <td key={name} class="meter">
                  <span class="meter-value">
                    <span class={toneOf(one[name]) === "accent" ? "n" : `n ${toneOf(one[name])}`}>
                      {percent(one[name])}
                    </span>
                    <Bar share={one[name]} tone={toneOf(one[name])} />
                  </span>
                </td>
              ))}
              <td class="n opt">
                <Ago at={one.last_seen} />
              </td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function HostChart(props: { host: string; data: HostSeries; metric: Metric; large: boolean }) {
  const { host, data, metric, large } = props;
  const drawn = useDrawn(() => {
    const { axis, now } = data;
    const series = `host/${host}/${METRICS[metric]}`;
    const rows = data.rows.get(host) ?? [];
    // Of a step of several minutes, the highest: a short peak must not vanish in a long range.
    const observed = fold(axis, rows, (row) => row.window_start, (row) => (axis.step > MINUTE ? row.max : row.avg), Math.max);
    const expected = data.forecasts.filter((one) => one.series === series);
    const column = (value: (one: Forecast) => number): Column =>
      interpolated(axis, expected.map((one) => ({ at: Date.parse(one.time), value: value(one) })));
    const anomalies: Column = new Array<number | null>(axis.length).fill(null);
    for (const one of data.anomalies) {
      const i = one.series === series ? place(axis, Date.parse(one.time)) : null;
      if (i !== null) anomalies[i] = one.value;
    }
    const lines: Line[] = [{ label: t("hosts.observed"), values: observed }];
    let band: readonly [number, number] | undefined;
    if (expected.length > 0) {
      lines.push(
        { label: t("hosts.expected"), values: column((one) => one.mean), kind: "dashes", tone: "accent3" },
        { label: t("hosts.hi"), values: column((one) => Math.min(one.hi, 1)), kind: "edge" },
        { label: t("hosts.lo"), values: column((one) => Math.max(one.lo, 0)), kind: "edge" },
      );
      band = [2, 3];
    }
    const count = anomalies.filter((n) => n !== null).length;
    if (count > 0) lines.push({ label: t("chart.anomaly"), values: anomalies, kind: "marks", tone: "bad" });
    return { xs: seconds(axis), lines, count, last: summary(observed)?.last ?? null, now, ...(band ? { band } : {}) };
  }, [data, host, metric]);
  const { count, last, now, ...chart } = drawn;
  const top = summary(chart.lines[0]!.values)?.most ?? 0;
  return (
    <section class="host-chart" aria-label={host}>
      <h3>
        {host}
        <span class="host-value">{percent(last)}</span>
        {count > 0 && <span class="host-marks">{t("hosts.anomalies", { n: count })}</span>}
      </h3>
      <Chart
        title={`${host}, ${t(`hosts.${metric}`)}`}
        {...chart}
        from={data.bounds.from}
        to={data.bounds.to}
        write={percent}
        height={large ? 280 : 150}
        ceiling={top > 0.5 ? 1 : 0.5}
        limit={1}
        now={data.bounds.open ? now : undefined}
        together="hosts"
      />
    </section>
  );
}

