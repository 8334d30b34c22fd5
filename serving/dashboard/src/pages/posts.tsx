/** Posts that draw attention now, of everybody or of a device or referrer, and what one of them drew day by day. */
import { useState } from "preact/hooks";

import { rows } from "../api";
import { calendar, decimal, integer } from "../format";
import { t } from "../language";
import { useQuery } from "../query";
import { useTrending } from "../questions";
import { go, href, route } from "../route";
import { useStore } from "../store";
import type { Engagement, Trending } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Nothing, Panel, Plain } from "../ui/panel";
import { Bar, PostLink, Scroll, Select } from "../ui/parts";

/** Of the demo; others are typed. */
const DEVICES = ["web", "ios", "android", "tablet"];

export function Posts() {
  const { params } = useStore(route);
  const device = params.get("device") ?? "";
  const referrer = params.get("referrer") ?? "";
  const post = params.get("post");
  const trending = useTrending(25, device ? { device } : referrer ? { referrer } : {});
  return (
    <>
      <Panel
        title={t("posts.trending")}
        class="half"
        size="l"
        query={trending}
        empty={(data) => data.length === 0}
        emptyText={device || referrer ? t("posts.noneOfPart") : t("posts.none")}
        tools={<Parts device={device} referrer={referrer} />}
      >
        {(data) => (
          <>
            <TrendingList of={data} chosen={post} />
            <p class="footnote">{t("posts.trendingNote")}</p>
          </>
        )}
      </Panel>
      <div class="half column">
        <FindPost post={post} />
        {post ? (
          <OnePost key={post} post={post} />
        ) : (
          <Plain title={t("posts.engagement")}>
            <Nothing text={t("posts.choose")} icon="posts" />
          </Plain>
        )}
      </div>
    </>
  );
}

function Parts({ device, referrer }: { device: string; referrer: string }) {
  const devices = DEVICES.includes(device) || !device ? DEVICES : [...DEVICES, device];
  const [typed, setTyped] = useState(referrer);
  return (
    <>
      <Select
        label={t("posts.device")}
        value={device}
        choose={(chosen) => {
          setTyped("");
          go({ device: chosen, referrer: null });
        }}
        of={[{ value: "", label: t("posts.any") }, ...devices.map((value) => ({ value, label: value }))]}
      />
      <form
        class="inline"
        onSubmit={(event) => {
          event.preventDefault();
          go({ referrer: typed.trim(), device: null });
        }}
      >
        <label class="select">
          <span>{t("posts.referrer")}</span>
          <input
            type="text"
            size={14}
            placeholder="search.example"
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
            onBlur={() => {
              if (typed.trim() !== referrer) go({ referrer: typed.trim(), device: null });
            }}
          />
        </label>
      </form>
    </>
  );
}

export function TrendingList({ of, chosen = null }: { of: readonly Trending[]; chosen?: string | null }) {
  const most = Math.max(...of.map((one) => one.score), 1e-9);
  return (
    <ol class="ranked">
      {of.map((one) => (
        <li key={one.post_id} class={one.post_id === chosen ? "chosen" : ""}>
          <span class="rank">{one.rank}</span>
          <PostLink id={one.post_id} />
          <Bar share={one.score / most} />
          <span class="n">{decimal(one.score)}</span>
        </li>
      ))}
    </ol>
  );
}

function FindPost({ post }: { post: string | null }) {
  const [typed, setTyped] = useState(post ?? "");
  const [before, setBefore] = useState(post);
  if (before !== post) {
    setBefore(post);
    setTyped(post ?? "");
  }
  return (
    <form
      class="find"
      role="search"
      onSubmit={(event) => {
        event.preventDefault();
        go({ post: typed.trim() });
      }}
    >
      <label for="post">{t("posts.find")}</label>
      <input
        id="post"
        type="search"
        spellcheck={false}
        autocomplete="off"
        value={typed}
        onInput={(event) => setTyped(event.currentTarget.value)}
      />
      <button type="submit" class="button">
        {t("posts.show")}
      </button>
    </form>
  );
}

const DAY_MS = 86_400_000;

function OnePost({ post }: { post: string }) {
  const query = useQuery(
    `engagement ${post}`,
    async (signal) =>
      (await rows<Engagement>(`/posts/${encodeURIComponent(post)}/engagement`, { limit: 60 }, signal)).body,
    { tables: ["gold.post_engagement_daily"] },
  );
  return (
    <Panel
      title={t("posts.engagementOf", { post })}
      note={t("posts.daysNote")}
      size="l"
      query={query}
      empty={(data) => data.length === 0}
      emptyText={t("posts.unknown")}
      tools={<a href={href("logs", { q: post })}>{t("posts.logs")}</a>}
    >
      {(data) => <Days of={data} />}
    </Panel>
  );
}

function Days({ of }: { of: readonly Engagement[] }) {
  const { days, ...drawn } = useDrawn(() => {
    const days = [...of].sort((a, b) => a.date.localeCompare(b.date));
    const first = Date.parse(days[0]!.date);
    const last = Date.parse(days[days.length - 1]!.date);
    const from = Math.min(first, last - 6 * DAY_MS);
    const byDate = new Map(days.map((one) => [Date.parse(one.date), one]));
    const xs = Array.from({ length: (last - from) / DAY_MS + 1 }, (_, i) => from + i * DAY_MS);
    const column = (value: (one: Engagement) => number) => xs.map((at) => value(byDate.get(at) ?? NOTHING));
    const lines: Line[] = [
      { label: t("posts.views"), values: column((one) => one.views), kind: "bars", tone: "accent2" },
      { label: t("posts.users"), values: column((one) => one.users), tone: "accent3" },
    ];
    return { days: days.reverse(), xs: xs.map((at) => at / 1000), lines, from, to: last + DAY_MS };
  }, [of]);
  return (
    <>
      <Chart title={t("posts.engagement")} {...drawn} write={integer} height={150} zoom={false} />
      <Scroll label={t("posts.engagement")}>
        <table class="rows">
          <thead>
            <tr>
              <th scope="col">{t("posts.date")}</th>
              {COLUMNS.map((name) => (
                <th key={name} scope="col" class={name === "bookmarks" ? "n opt" : "n"}>
                  {t(`posts.${name}`)}
                </th>
              ))}
            </tr>
          </thead>
          <tbody>
            {days.map((one) => (
              <tr key={one.date}>
                <th scope="row">{calendar(one.date)}</th>
                {COLUMNS.map((name) => (
                  <td key={name} class={name === "bookmarks" ? "n opt" : "n"}>
                    {integer(one[name])}
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

const COLUMNS = ["views", "likes", "comments", "shares", "bookmarks", "users"] as const;
const NOTHING: Engagement = {
  date: "", post_id: "", views: 0, likes: 0, comments: 0, shares: 0, bookmarks: 0, users: 0,
};
