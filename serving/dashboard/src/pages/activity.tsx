/** What people do: now, by the stream, and over the range, by type of event. */
import { compact, decimal, integer, percent } from "../format";
import { t, word } from "../language";
import { moments, total, type Moment } from "../now";
import { useActivity, useSite, type Spanned } from "../questions";
import { go, route } from "../route";
import { fold, perMinute, seconds, summary, type Column } from "../series";
import { useStore } from "../store";
import type { ActivityRow, Site } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Fresh, Panel } from "../ui/panel";
import { Ago, Bar, Scroll, Spark, Spoken } from "../ui/parts";
import { rangeText, useRange } from "../ui/range";

export function Activity() {
  const range = useRange();
  const type = useStore(route).params.get("type");
  const { site, query: live } = useSite();
  const seen = useStore(moments);
  const activity = useActivity(range);
  const chosen = activity.data?.rows.some((row) => row.event_type === type) ? type : null;
  return (
    <>
      <Panel
        title={t("activity.now")}
        note={site?.at ? <Ago at={site.at} /> : undefined}
        class="third"
        query={site ? { ...live, data: site, problem: undefined } : live}
        empty={(now) => now.active_users === null}
        emptyText={t("activity.off")}
      >
        {(now) => <Now site={now} />}
      </Panel>
      <Panel
        title={t("activity.live")}
        note={t("activity.liveNote")}
        class="twothirds"
        query={site ? { ...live, data: seen, problem: undefined } : { ...live, data: undefined }}
        empty={(found) => found.length < 2}
        emptyText={t("activity.waiting")}
      >
        {(found) => <LiveChart of={found} />}
      </Panel>
      <Panel
        title={chosen ? t("activity.eventsOf", { type: word("event", chosen) }) : t("activity.events")}
        note={
          <>
            {rangeText(range)}
            <Fresh ageS={activity.data?.ageS ?? null} at={activity.at} />
            {activity.data?.cut && ` · ${t("panel.cut")}`}
          </>
        }
        tools={
          chosen && (
            <button type="button" class="button small" onClick={() => go({ type: null })}>
              {t("activity.allTypes")}
            </button>
          )
        }
        class="full"
        query={activity}
        empty={(data) => data.rows.length === 0}
        emptyText={t("activity.none")}
      >
        {(data) => <EventsChart data={data} type={chosen} height={220} users />}
      </Panel>
      <Panel
        title={t("activity.byType")}
        note={rangeText(range)}
        class="full"
        query={activity}
        empty={(data) => data.rows.length === 0}
        emptyText={t("activity.none")}
      >
        {(data) => <Types data={data} site={site} chosen={chosen} />}
      </Panel>
    </>
  );
}

function Now({ site }: { site: Site }) {
  const types = Object.entries(site.events_1m).sort(([a, n], [b, m]) => m - n || a.localeCompare(b));
  const most = Math.max(1, ...types.map(([, n]) => n));
  const all = total(site);
  return (
    <div class="now">
      <div class="now-figures">
        <div>
          <div class="figure-value large">{integer(site.active_users)}</div>
          <div class="figure-label">{t("figure.users")}</div>
        </div>
        <div>
          <div class="figure-value large">{integer(all)}</div>
          <div class="figure-label">{t("figure.eventsMinute")}</div>
        </div>
      </div>
      <Spoken text={t("activity.spoken", { users: integer(site.active_users), events: integer(all) })} />
      {types.length === 0 && <p class="footnote">{t("activity.still")}</p>}
      <table class="bars">
        <caption class="hidden">{t("activity.nowByType")}</caption>
        <tbody>
          {types.map(([type, n]) => (
            <tr key={type}>
              <th scope="row">{word("event", type)}</th>
              <td class="bar-cell">
                <Bar share={n / most} />
              </td>
              <td class="n">{integer(n)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

const SECOND = 1000;
const LEAST_MS = 60 * SECOND;

/** What the stream has said since the page was opened. */
function LiveChart({ of }: { of: readonly Moment[] }) {
  const to = of[of.length - 1]?.at ?? Date.now();
  const from = Math.min(of[0]?.at ?? to, to - LEAST_MS);
  const drawn = useDrawn(
    () => ({
      xs: of.map((one) => one.at / 1000),
      lines: [
        { label: t("figure.eventsMinute"), values: of.map((one) => one.events), kind: "area" },
        { label: t("figure.users"), values: of.map((one) => one.users), kind: "line", tone: "accent3" },
      ] satisfies Line[],
    }),
    [of],
  );
  return (
    <Chart
      title={t("activity.live")}
      {...drawn}
      from={from}
      to={to}
      write={compact}
      height={216}
      zoom={false}
    />
  );
}

const time = (row: ActivityRow) => row.window_start;

/** Events a minute, of all types or one. */
export function EventsChart(props: {
  data: Spanned<ActivityRow[]>;
  type: string | null;
  height?: number;
  users?: boolean;
}) {
  const { data, type, height, users } = props;
  const drawn = useDrawn(() => {
    const rows = type === null ? data.rows : data.rows.filter((row) => row.event_type === type);
    const values = perMinute(data.axis, rows, time, (row) => row.events, data.now, newestOf(data.rows));
    const lines: Line[] = [{ label: t("activity.eventsMinute"), values, kind: "area" }];
    // Users are distinct within a type and a minute: of one type they can be told; of several, not from these rows.
    if (users && type !== null) {
      const most = fold(data.axis, rows, time, (row) => row.users, Math.max);
      lines.push({ label: t("activity.usersMinute"), values: most.map((n, i) => known(values, i, n)), tone: "accent3" });
    }
    return { xs: seconds(data.axis), lines };
  }, [data, type, users]);
  return (
    <Chart
      title={type === null ? t("activity.events") : t("activity.eventsOf", { type: word("event", type) })}
      {...drawn}
      from={data.bounds.from}
      to={data.bounds.to}
      write={compact}
      {...(height === undefined ? {} : { height })}
    />
  );
}

function newestOf(rows: readonly ActivityRow[]): number {
  return rows.reduce((latest, row) => Math.max(latest, Date.parse(row.window_start)), -Infinity);
}

function known(beside: Column, i: number, n: number | null): number | null {
  return beside[i] === null || beside[i] === undefined ? null : (n ?? 0);
}

/** One line a type: the same scale for none of them, as the shape is what matters; the numbers say how much. */
function Types({ data, site, chosen }: { data: Spanned<ActivityRow[]>; site: Site | null; chosen: string | null }) {
  const types = useDrawn(() => {
    const newest = newestOf(data.rows);
    const byType = Map.groupBy(data.rows, (row) => row.event_type);
    return [...byType]
      .map(([type, rows]) => {
        const values = perMinute(data.axis, rows, time, (row) => row.events, data.now, newest);
        return { type, values, events: rows.reduce((n, row) => n + row.events, 0), found: summary(values) };
      })
      .sort((a, b) => b.events - a.events);
  }, [data]);
  const all = types.reduce((n, one) => n + one.events, 0);
  return (
    <Scroll label={t("activity.byType")}>
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("activity.type")}</th>
            <th scope="col" class="spark-cell">
              {t("activity.shape")}
            </th>
            <th scope="col" class="n">
              {t("activity.sum")}
            </th>
            <th scope="col" class="n opt">
              {t("activity.share")}
            </th>
            <th scope="col" class="n opt">
              {t("activity.mean")}
            </th>
            <th scope="col" class="n opt">
              {t("activity.most")}
            </th>
            <th scope="col" class="n">
              {t("activity.nowMinute")}
            </th>
          </tr>
        </thead>
        <tbody>
          {types.map(({ type, values, events, found }) => (
            <tr key={type} class={type === chosen ? "chosen" : ""}>
              <th scope="row">
                <button
                  type="button"
                  class="link"
                  aria-pressed={type === chosen}
                  onClick={() => go({ type: type === chosen ? null : type })}
                >
                  {word("event", type)}
                </button>
              </th>
              <td class="spark-cell">
                <Spark values={values} />
              </td>
              <td class="n">{integer(events)}</td>
              <td class="n opt">{percent(all ? events / all : null)}</td>
              <td class="n opt">{decimal(found?.mean)}</td>
              <td class="n opt">{decimal(found?.most)}</td>
              <td class="n">{integer(site ? (site.events_1m[type] ?? 0) : null)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}
