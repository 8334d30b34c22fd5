/** Logs by words, service, level, host, trace and time: how many when, of what, and the lines themselves. */
import { useEffect, useState } from "preact/hooks";

import { get, Problem } from "../api";
import { compact, exact, integer, milliseconds } from "../format";
import { t } from "../language";
import { useQuery, type Query } from "../query";
import { times } from "../questions";
import { bounds, rangeKey, type Bounds } from "../range";
import { go, href, route } from "../route";
import { useStore } from "../store";
import type { Facet, Log, LogPage } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Icon } from "../ui/icon";
import { Panel, words } from "../ui/panel";
import { Badge, Segments, Time, type Tone } from "../ui/parts";
import { rangeText, useRange } from "../ui/range";

const FACETS = ["service", "level", "host"] as const;
const SOURCES = ["history", "live"] as const;
const LINES = 100;

interface Found {
  readonly page: LogPage;
  readonly bounds: Bounds;
}

export function Logs() {
  const range = useRange();
  const { params } = useStore(route);
  const wanted = {
    q: params.get("q"),
    service: params.get("service"),
    level: params.get("level"),
    host: params.get("host"),
    trace_id: params.get("trace"),
    source: SOURCES.find((one) => one === params.get("source")) ?? "history",
  };
  const key = `logs ${rangeKey(range)} ${JSON.stringify(wanted)}`;
  const [more, setMore] = useState<{ key: string; rows: Log[]; next: string | null } | null>(null);
  const further = more?.key === key ? more : null;
  const query = useQuery<Found>(
    key,
    async (signal) => {
      const span = bounds(range, Date.now());
      const { body } = await get<LogPage>("/logs/search", { ...wanted, ...times(span), limit: LINES }, signal);
      return { page: body, bounds: span };
    },
    { everyMs: wanted.source === "live" ? 5000 : 30_000, tables: ["silver.service_logs"], still: further !== null },
  );
  const next = further ? further.next : (query.data?.page.next ?? null);
  const ask = async () => {
    const { body } = await get<LogPage>("/logs/search", { ...wanted, ...spanOf(query), limit: LINES, cursor: next });
    setMore({ key, rows: [...(further?.rows ?? []), ...body.data], next: body.next });
  };
  const lines = [...(query.data?.page.data ?? []), ...(further?.rows ?? [])];
  return (
    <>
      <Search key={JSON.stringify([wanted.q, wanted.trace_id])} q={wanted.q} trace={wanted.trace_id} source={wanted.source} />
      <Chosen wanted={wanted} />
      <Panel
        title={t("logs.found")}
        note={query.data?.page.total === undefined ? rangeText(range) : `${t("logs.total", { n: integer(query.data.page.total) })} · ${rangeText(range)}`}
        class="full logs-panel"
        size="l"
        query={query}
        empty={({ page }) => page.data.length === 0}
        emptyText={wanted.trace_id ? t("logs.noTrace") : t("logs.none")}
      >
        {({ page, bounds }) => (
          <>
            <Histogram page={page} bounds={bounds} />
            <div class="logs-columns">
              <Facets page={page} wanted={wanted} />
              <div class="logs-lines">
                <Lines of={lines} />
                {next !== null && <More key={key} ask={ask} />}
              </div>
            </div>
          </>
        )}
      </Panel>
    </>
  );
}

/** A cursor goes on with the question it came from: with the times of that question. */
function spanOf(query: Query<Found>): { from?: string; to?: string | null } {
  return query.data ? times(query.data.bounds) : {};
}

function Search(props: { q: string | null; trace: string | null; source: (typeof SOURCES)[number] }) {
  const [q, setQ] = useState(props.q ?? "");
  const [trace, setTrace] = useState(props.trace ?? "");
  return (
    <form
      class="search full"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        go({ q: q.trim(), trace: trace.trim() });
      }}
    >
      <label class="search-field grow">
        <span>{t("logs.words")}</span>
        <span class="search-box">
          <Icon name="search" size={14} />
          <input
            type="search"
            name="q"
            value={q}
            spellcheck={false}
            autocomplete="off"
            placeholder={t("logs.hint")}
            onInput={(event) => setQ(event.currentTarget.value)}
          />
        </span>
      </label>
      <label class="search-field">
        <span>{t("logs.trace")}</span>
        <input
          type="search"
          name="trace"
          class="mono"
          value={trace}
          spellcheck={false}
          autocomplete="off"
          onInput={(event) => setTrace(event.currentTarget.value)}
        />
      </label>
      <button type="submit" class="button primary">
        {t("logs.search")}
      </button>
      <Segments
        name="source"
        label={t("logs.source")}
        value={props.source}
        choose={(source) => go({ source: source === "history" ? null : source })}
        of={SOURCES.map((value) => ({ value, label: t(`logs.${value}`) }))}
      />
    </form>
  );
}

type Wanted = Record<(typeof FACETS)[number] | "trace_id" | "q", string | null>;

/** What the lines are narrowed down to; each can be taken back. */
function Chosen({ wanted }: { wanted: Wanted }) {
  const all = [
    { name: "q", label: t("logs.words"), value: wanted.q },
    { name: "service", label: t("logs.service"), value: wanted.service },
    { name: "level", label: t("logs.level"), value: wanted.level },
    { name: "host", label: t("logs.host"), value: wanted.host },
    { name: "trace", label: t("logs.trace"), value: wanted.trace_id },
  ].filter((one) => one.value);
  if (all.length === 0) return null;
  return (
    <ul class="chips full" aria-label={t("logs.chosen")}>
      {all.map(({ name, label, value }) => (
        <li key={name}>
          <button type="button" class="chip" onClick={() => go({ [name]: null })}>
            <span>
              {label}: <b>{value}</b>
            </span>
            <Icon name="close" size={12} />
            <span class="hidden">{t("logs.remove")}</span>
          </button>
        </li>
      ))}
    </ul>
  );
}

function Histogram({ page, bounds }: { page: LogPage; bounds: Bounds }) {
  const drawn = useDrawn(() => {
    const bars = page.histogram ?? [];
    const lines: Line[] = [
      { label: t("logs.lines"), values: bars.map((bar) => bar.count), kind: "bars", tone: "accent2" },
      { label: t("logs.errors"), values: bars.map((bar) => bar.errors), kind: "bars", tone: "bad" },
    ];
    return { xs: bars.map((bar) => Date.parse(bar.time) / 1000), lines };
  }, [page]);
  return (
    <Chart title={t("logs.histogram")} {...drawn} from={bounds.from} to={bounds.to} write={compact} height={110} />
  );
}

function Facets({ page, wanted }: { page: LogPage; wanted: Wanted }) {
  const wide = useWide();
  return (
    <details class="facets" open={wide}>
      <summary>{t("logs.narrow")}</summary>
      {FACETS.map((name) => (
        <FacetList key={name} name={name} of={page.facets?.[name] ?? []} chosen={wanted[name]} />
      ))}
    </details>
  );
}

function FacetList({ name, of, chosen }: { name: (typeof FACETS)[number]; of: Facet[]; chosen: string | null }) {
  return (
    <div class="facet">
      <h3>{t(`logs.${name}`)}</h3>
      <ul>
        {of.map(({ value, count }) => (
          <li key={value}>
            <button
              type="button"
              aria-pressed={value === chosen}
              onClick={() => go({ [name]: value === chosen ? null : value })}
            >
              <span class="clip">{value}</span>
              <span class="n">{compact(count)}</span>
            </button>
          </li>
        ))}
      </ul>
    </div>
  );
}

/** Whether there is room beside the lines. */
function useWide(): boolean {
  const media = matchMedia("(min-width: 900px)");
  const [wide, setWide] = useState(media.matches);
  useEffect(() => {
    const change = () => setWide(media.matches);
    media.addEventListener("change", change);
    return () => media.removeEventListener("change", change);
  }, []);
  return wide;
}

export function toneOf(level: string | null): Tone {
  switch (level?.toLowerCase()) {
    case "error":
    case "critical":
    case "fatal":
      return "bad";
    case "warn":
    case "warning":
      return "warn";
    default:
      return "muted";
  }
}

function Lines({ of }: { of: readonly Log[] }) {
  return (
    <ul class="lines" aria-label={t("logs.found")}>
      {of.map((log) => (
        <LogLine key={log.id} log={log} />
      ))}
    </ul>
  );
}

function LogLine({ log }: { log: Log }) {
  const [open, setOpen] = useState(false);
  return (
    <li class={`line tone-${toneOf(log.level)}`}>
      <details onToggle={(event) => setOpen(event.currentTarget.open)}>
        <summary>
          <Time at={log.time} as={exact} />
          <Badge tone={toneOf(log.level)}>{log.level ?? "–"}</Badge>
          <span class="line-service">{log.service ?? "–"}</span>
          <span class="line-text">{log.message ?? <em>{log.path ?? t("logs.hidden")}</em>}</span>
        </summary>
        {open && <Detail log={log} />}
      </details>
    </li>
  );
}

function Detail({ log }: { log: Log }) {
  const facts: [string, preact.ComponentChildren][] = [
    [t("logs.message"), log.message ?? <em>{t("logs.hidden")}</em>],
    ...(log.error ? [[t("logs.error"), log.error] as [string, string]] : []),
    [t("logs.service"), log.service],
    [t("logs.host"), log.host && <a href={href("hosts", { host: log.host })}>{log.host}</a>],
    [t("logs.path"), log.path && <span class="mono">{log.path}</span>],
    [t("logs.status"), log.status],
    [t("logs.duration"), log.duration_ms === null ? null : milliseconds(log.duration_ms)],
    [
      t("logs.trace"),
      log.trace_id && (
        <a class="mono" href={href("logs", { trace: log.trace_id, q: null, service: null, level: null, host: null })}>
          {log.trace_id}
        </a>
      ),
    ],
    [t("logs.id"), <span class="mono">{log.id}</span>],
  ];
  return (
    <dl class="facts">
      {facts
        .filter(([, value]) => value !== null && value !== undefined && value !== "")
        .map(([name, value]) => (
          <div key={name}>
            <dt>{name}</dt>
            <dd>{value}</dd>
          </div>
        ))}
    </dl>
  );
}

export function More({ ask }: { ask: () => Promise<void> }) {
  const [asking, setAsking] = useState(false);
  const [problem, setProblem] = useState<Problem | null>(null);
  return (
    <div class="more">
      {problem && <p role="alert">{Object.values(words(problem)).filter(Boolean).join(": ")}</p>}
      <button
        type="button"
        class="button"
        disabled={asking}
        onClick={() => {
          setAsking(true);
          setProblem(null);
          ask()
            .catch((error: unknown) => setProblem(error instanceof Problem ? error : new Problem(0, "unreadable", String(error))))
            .finally(() => setAsking(false));
        }}
      >
        {asking ? t("panel.loading") : t("panel.more")}
      </button>
    </div>
  );
}

