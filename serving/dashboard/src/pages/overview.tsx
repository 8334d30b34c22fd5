/** Everything at a glance: what is live, what needs a person, and where to look next. */
import { useAlerts } from "../alerts";
import { age, compact, integer, milliseconds, percent } from "../format";
import { t } from "../language";
import { moments, total } from "../now";
import type { Query } from "../query";
import { useActivity, useReports, useServices, useSite, useStatus, useTrending } from "../questions";
import { href } from "../route";
import { summary } from "../series";
import { useStore } from "../store";
import type { Alert, Health, Status } from "../types";
import { EventsChart } from "./activity";
import { AlertList } from "./alerts";
import { lagOf } from "./pipeline";
import { TrendingList } from "./posts";
import { ReportList } from "./reports";
import { ServiceTable } from "./services";
import { Fresh, Panel, words } from "../ui/panel";
import { Ago, Figures, Spoken, type Figure } from "../ui/parts";
import { rangeText, useRange } from "../ui/range";

export function Overview() {
  const range = useRange();
  const { site } = useSite();
  const seen = useStore(moments);
  const services = useServices();
  const status = useStatus();
  const alerts = useAlerts();
  const activity = useActivity(range);
  const trending = useTrending(8);
  const reports = useReports();
  const figures: Figure[] = [
    {
      label: t("figure.users"),
      value: integer(site?.active_users),
      note: site?.at ? <Ago at={site.at} /> : t("figure.nothing"),
      href: href("activity"),
      ...(seen.length > 2 ? { spark: seen.map((one) => one.users) } : {}),
    },
    {
      label: t("figure.events"),
      value: site ? compact(total(site)) : "–",
      note: t("figure.lastMinute"),
      href: href("activity"),
      ...(seen.length > 2 ? { spark: seen.map((one) => one.events) } : {}),
    },
    ...healthFigures(services),
    lagFigure(status),
    alertFigure(alerts),
  ];
  return (
    <>
      <Figures label={t("overview.figures")} of={figures} />
      <Spoken
        text={site ? t("activity.spoken", { users: integer(site.active_users), events: integer(total(site)) }) : ""}
      />
      <Panel
        title={t("activity.events")}
        note={
          <>
            {rangeText(range)}
            <Fresh ageS={activity.data?.ageS ?? null} at={activity.at} />
          </>
        }
        class="wide"
        query={activity}
        empty={(data) => data.rows.length === 0}
        emptyText={t("activity.none")}
      >
        {(data) => <EventsChart data={data} type={null} />}
      </Panel>
      <Panel
        title={t("page.alerts")}
        class="narrow"
        query={alerts}
        empty={(data) => data.filter((one) => one.state !== "recovered").length === 0}
        emptyText={t("alerts.calm")}
        emptyIcon="check"
        tools={<a href={href("alerts")}>{t("panel.all")}</a>}
      >
        {(data) => <AlertList of={data.filter((one) => one.state !== "recovered").slice(0, 5)} brief />}
      </Panel>
      <Panel
        title={t("services.newest")}
        class="wide"
        query={services}
        empty={(data) => data.length === 0}
        emptyText={t("services.none")}
        tools={<a href={href("services")}>{t("panel.all")}</a>}
      >
        {(data) => <ServiceTable of={data} />}
      </Panel>
      <Panel
        title={t("posts.trending")}
        class="narrow"
        query={trending}
        empty={(data) => data.length === 0}
        emptyText={t("posts.none")}
        tools={<a href={href("posts")}>{t("panel.all")}</a>}
      >
        {(data) => <TrendingList of={data} />}
      </Panel>
      <Panel title={t("reports.title")} note={t("reports.note")} class="full" query={reports}>
        {(data) => <ReportList of={data} />}
      </Panel>
    </>
  );
}

/** Why a figure is not known. */
function why(query: Query<unknown>): string | undefined {
  return query.data === undefined && query.problem ? words(query.problem).title : undefined;
}

function healthFigures(query: Query<Health[]>): Figure[] {
  const services = query.data;
  const requests = services?.reduce((n, one) => n + one.requests, 0);
  const errors = services?.reduce((n, one) => n + one.errors, 0);
  const rate = requests ? errors! / requests : null;
  const slowest = services
    ?.filter((one) => one.p95_ms !== null)
    .reduce<Health | null>((most, one) => (most === null || one.p95_ms! > most.p95_ms! ? one : most), null);
  return [
    {
      label: t("figure.errors"),
      value: percent(rate),
      note: requests === undefined ? why(query) : t("figure.ofRequests", { n: compact(requests) }),
      href: href("services"),
      ...(rate !== null && rate >= 0.05 ? { tone: "bad" as const } : {}),
    },
    {
      label: t("figure.slowest"),
      value: milliseconds(slowest?.p95_ms),
      note: slowest?.service ?? why(query),
      href: href("services", slowest ? { service: slowest.service } : {}),
    },
  ];
}

function lagFigure(query: Query<Status>): Figure {
  const status = query.data;
  const lags = status ? Object.entries(status.topics).map(([topic, facts]) => ({ topic, s: lagOf(facts) })) : [];
  const worst = summary(lags.map(({ s }) => s))?.most;
  const lost = status && Object.values(status.topics).find((facts) => facts.error)?.error;
  const topic = lags.find(({ s }) => s === worst)?.topic;
  return {
    label: t("figure.lag"),
    value: age(worst),
    note: worst === 0 ? t("figure.upToDate") : (topic ?? lost ?? why(query)),
    href: href("pipeline"),
    ...(worst !== undefined && worst > 60 ? { tone: "warn" as const } : {}),
  };
}

function alertFigure(query: Query<Alert[]>): Figure {
  const alerts = query.data;
  const firing = alerts?.filter((one) => one.state === "firing" && !one.silenced);
  const pending = alerts?.filter((one) => one.state === "pending").length ?? 0;
  return {
    label: t("figure.alerts"),
    value: integer(firing?.length),
    note: firing === undefined ? why(query) : t("figure.pending", { n: integer(pending) }),
    href: href("alerts"),
    ...(firing?.length ? { tone: "bad" as const } : {}),
  };
}
