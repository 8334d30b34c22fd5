/** One user: what they do, what they should see next, and what they were told. */
import { useEffect, useState } from "preact/hooks";

import { get } from "../api";
import { age, calendar, decimal, integer } from "../format";
import { t, word } from "../language";
import { follow, notified } from "../now";
import { useQuery } from "../query";
import { go, route } from "../route";
import { claims, token } from "../session";
import { useStore } from "../store";
import type { Notification, Page, Recommended, UserActivity, UserDay } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Nothing, Panel, Plain } from "../ui/panel";
import { Ago, Badge, Bar, Figures, PostLink, Scroll, type Figure } from "../ui/parts";
import { severityTone } from "./alerts";
import { More } from "./logs";

const DAY_MS = 86_400_000;

export function Users() {
  const given = useStore(token);
  const own = given === null ? null : (claims(given)?.userId ?? null);
  // A user's token sees that user alone.
  const user = useStore(route).params.get("user") ?? own;
  return (
    <>
      <FindUser key={user} user={user} />
      {user === null ? (
        <Plain title={t("users.one")} class="full">
          <Nothing text={t("users.choose")} icon="users" />
        </Plain>
      ) : (
        <OneUser key={user} user={user} />
      )}
    </>
  );
}

function FindUser({ user }: { user: string | null }) {
  const [typed, setTyped] = useState(user ?? "");
  return (
    <form
      class="find full"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        go({ user: typed.trim() });
      }}
    >
      <label for="user">{t("users.find")}</label>
      <input
        id="user"
        type="search"
        spellcheck={false}
        autocomplete="off"
        placeholder="u00042"
        value={typed}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      <button type="submit" class="button primary">
        {t("users.show")}
      </button>
    </form>
  );
}

function OneUser({ user }: { user: string }) {
  useEffect(() => {
    follow(user);
    return () => follow(null);
  }, [user]);
  const path = `/users/${encodeURIComponent(user)}`;
  const activity = useQuery(
    `user ${user}`,
    async (signal) => (await get<UserActivity>(`${path}/activity`, { days: 30 }, signal)).body,
    { tables: ["gold.user_activity_daily"], everyMs: 10_000 },
  );
  const recommended = useQuery(
    `recommended ${user}`,
    async (signal) => (await get<Recommended>(`${path}/recommendations`, { limit: 15 }, signal)).body,
    { everyMs: 10_000 },
  );
  return (
    <>
      <Panel title={t("users.of", { user })} class="full" size="s" query={activity}>
        {(data) => <Profile of={data} />}
      </Panel>
      <Panel
        title={t("users.days")}
        note={t("users.daysNote")}
        class="half"
        size="l"
        query={activity}
        empty={(data) => data.days.length === 0}
        emptyText={t("users.noDays")}
      >
        {(data) => <Days of={data.days} />}
      </Panel>
      <Panel
        title={t("users.recommended")}
        note={recommended.data && <Made of={recommended.data} />}
        class="half"
        size="l"
        query={recommended}
        empty={(data) => data.items.length === 0}
        emptyText={t("users.noneRecommended")}
      >
        {(data) => <Recommendations of={data} />}
      </Panel>
      <Notifications user={user} />
    </>
  );
}

function Profile({ of: { live, profile, days } }: { of: UserActivity }) {
  const now = live?.session ?? null;
  const figures: Figure[] = [
    { label: t("users.events"), value: integer(profile?.events ?? sum(days, (day) => day.events)), note: t("users.inAll") },
    { label: t("users.sessions"), value: integer(profile?.sessions ?? sum(days, (day) => day.sessions)), note: t("users.inAll") },
    {
      label: t("users.lastSeen"),
      value: <Ago at={live?.last_at ?? profile?.last_at ?? days[0]?.last_at} />,
      note: live?.page ? <span class="mono">{live.page}</span> : undefined,
    },
    { label: t("users.device"), value: live?.device ?? profile?.device ?? "–" },
    {
      label: t("users.session"),
      value: now ? t("users.sessionEvents", { n: integer(now.events) }) : t("users.noSession"),
      note: now ? <Ago at={now.start} /> : undefined,
    },
  ];
  const types = Object.entries(profile?.by_type ?? {}).sort(([, n], [, m]) => m - n);
  return (
    <>
      <Figures label={t("users.one")} of={figures} />
      {types.length > 0 && (
        <ul class="counts" aria-label={t("activity.byType")}>
          {types.map(([type, n]) => (
            <li key={type}>
              {word("event", type)} <b>{integer(n)}</b>
            </li>
          ))}
        </ul>
      )}
    </>
  );
}

function sum<R>(rows: readonly R[], value: (row: R) => number): number {
  return rows.reduce((n, row) => n + value(row), 0);
}

function Days({ of }: { of: readonly UserDay[] }) {
  const { days, ...drawn } = useDrawn(() => {
    const days = [...of].sort((a, b) => a.date.localeCompare(b.date));
    const last = Date.parse(days[days.length - 1]!.date);
    const from = Math.min(Date.parse(days[0]!.date), last - 6 * DAY_MS);
    const byDate = new Map(days.map((one) => [Date.parse(one.date), one]));
    const xs = Array.from({ length: (last - from) / DAY_MS + 1 }, (_, i) => from + i * DAY_MS);
    const lines: Line[] = [
      { label: t("users.events"), values: xs.map((at) => byDate.get(at)?.events ?? 0), kind: "bars" },
    ];
    return { days: days.reverse(), xs: xs.map((at) => at / 1000), lines, from, to: last + DAY_MS };
  }, [of]);
  return (
    <>
      <Chart title={t("users.days")} {...drawn} write={integer} height={130} zoom={false} />
      <Scroll label={t("users.days")}>
        <table class="rows">
          <thead>
            <tr>
              <th scope="col">{t("posts.date")}</th>
              <th scope="col" class="n">
                {t("users.events")}
              </th>
              <th scope="col" class="n">
                {t("users.sessions")}
              </th>
              <th scope="col" class="n">
                {t("users.posts")}
              </th>
            </tr>
          </thead>
          <tbody>
            {days.map((one) => (
              <tr key={one.date}>
                <th scope="row">{calendar(one.date)}</th>
                <td class="n">{integer(one.events)}</td>
                <td class="n">{integer(one.sessions)}</td>
                <td class="n">{integer(one.posts)}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function Made({ of }: { of: Recommended }) {
  return (
    <>
      {t(`users.${of.source}`)}
      {of.model_version && ` · ${t("users.model", { version: of.model_version })}`}
      {of.age_s !== null && ` · ${t("time.ago", { age: age(of.age_s) })}`}
    </>
  );
}

function Recommendations({ of }: { of: Recommended }) {
  const most = Math.max(...of.items.map((one) => one.score), 0);
  return (
    <ol class={most > 0 ? "ranked" : "ranked unscored"}>
      {of.items.map((one, i) => (
        <li key={one.post_id}>
          <span class="rank">{i + 1}</span>
          <PostLink id={one.post_id} />
          {most > 0 && (
            <>
              <Bar share={one.score / most} />
              <span class="n">{decimal(one.score)}</span>
            </>
          )}
        </li>
      ))}
    </ol>
  );
}

const TOLD = 20;

function Notifications({ user }: { user: string }) {
  const path = `/users/${encodeURIComponent(user)}/notifications`;
  const [more, setMore] = useState<{ rows: Notification[]; next: string | null } | null>(null);
  const query = useQuery(
    `notifications ${user}`,
    async (signal) => (await get<Page<Notification>>(path, { limit: TOLD }, signal)).body,
    { when: notified, gapMs: 2000, still: more !== null },
  );
  const next = more ? more.next : (query.data?.next ?? null);
  const ask = async () => {
    const { body } = await get<Page<Notification>>(path, { limit: TOLD, cursor: next });
    setMore({ rows: [...(more?.rows ?? []), ...body.data], next: body.next });
  };
  return (
    <Panel
      title={t("users.notifications")}
      class="full"
      query={query}
      empty={(data) => data.data.length === 0}
      emptyText={t("users.noneTold")}
    >
      {(data) => (
        <>
          <ul class="told">
            {[...data.data, ...(more?.rows ?? [])].map((one) => (
              <li key={one.id}>
                <Badge tone={severityTone(one.severity)}>{word("severity", one.severity)}</Badge>
                <span class="told-text">{one.text ?? <em>{t("users.textHidden")}</em>}</span>
                <span class="told-rule">{one.rule}</span>
                <Ago at={one.at} />
              </li>
            ))}
          </ul>
          {next !== null && <More ask={ask} />}
        </>
      )}
    </Panel>
  );
}
