/** A part of a page that asks one question: with its heading, and how it looks while it waits, is empty or fails. */
import type { ComponentChildren } from "preact";
import { useId } from "preact/hooks";

import type { Problem } from "../api";
import { age } from "../format";
import { t } from "../language";
import type { Query } from "../query";
import { Icon, type Picture } from "./icon";
import { Time, useNow } from "./parts";

interface Props<T> {
  title: string;
  /** What is shown, of when, how it is counted. */
  note?: ComponentChildren;
  tools?: ComponentChildren;
  query: Query<T>;
  empty?: (data: T) => boolean;
  /** What emptiness means here, and what to do about it. */
  emptyText?: string;
  emptyIcon?: Picture;
  class?: string;
  /** How high it will be, so that nothing jumps when the data come: s, m or l. */
  size?: "s" | "m" | "l";
  children: (data: T) => ComponentChildren;
}

export function Panel<T>(props: Props<T>) {
  const { title, query, size = "m" } = props;
  const id = useId();
  const data = query.data;
  let body: ComponentChildren;
  if (data !== undefined) {
    body = props.empty?.(data) ? <Nothing text={props.emptyText ?? t("panel.empty")} icon={props.emptyIcon ?? "empty"} /> : props.children(data);
  } else if (query.problem) {
    body = <Trouble problem={query.problem} again={query.again} />;
  } else {
    body = <Skeleton />;
  }
  return (
    <section
      class={`panel size-${size} ${props.class ?? ""}`}
      aria-labelledby={id}
      aria-busy={data === undefined && query.asking}
    >
      <header class="panel-head">
        <h2 id={id}>{title}</h2>
        {props.note !== undefined && <p class="panel-note">{props.note}</p>}
        {props.tools !== undefined && <div class="panel-tools">{props.tools}</div>}
      </header>
      {data !== undefined && query.problem && <Stale problem={query.problem} at={query.at} again={query.again} />}
      <div class="panel-body">{body}</div>
    </section>
  );
}

/** A part that asks nothing by itself. */
export function Plain(props: {
  title: string;
  note?: ComponentChildren;
  tools?: ComponentChildren;
  class?: string;
  children: ComponentChildren;
}) {
  const id = useId();
  return (
    <section class={`panel ${props.class ?? ""}`} aria-labelledby={id}>
      <header class="panel-head">
        <h2 id={id}>{props.title}</h2>
        {props.note !== undefined && <p class="panel-note">{props.note}</p>}
        {props.tools !== undefined && <div class="panel-tools">{props.tools}</div>}
      </header>
      <div class="panel-body">{props.children}</div>
    </section>
  );
}

export function Skeleton() {
  return (
    <div class="skeleton">
      <span class="hidden">{t("panel.loading")}</span>
      <i />
      <i />
      <i />
    </div>
  );
}

export function Nothing({ text, icon = "empty" }: { text: string; icon?: Picture }) {
  return (
    <div class="state">
      <Icon name={icon} size={20} />
      <p>{text}</p>
    </div>
  );
}

/** What a problem means to the reader: a heading, and the API's own words for what to do. */
export function words(problem: Problem): { title: string; detail: string } {
  const { status, kind, detail, scope } = problem;
  if (kind === "slow") return { title: t("problem.slow"), detail: t("problem.slow.detail") };
  if (kind === "unreachable") return { title: t("problem.unreachable"), detail: t("problem.unreachable.detail") };
  if (status === 403 && scope) {
    return { title: t("problem.scope", { scope }), detail: t("problem.scope.detail", { scope }) };
  }
  const titles: Record<number, string> = {
    403: t("problem.403"),
    404: t("problem.404"),
    422: t("problem.422"),
    429: t("problem.429"),
    503: t("problem.503"),
    504: t("problem.504"),
  };
  return { title: titles[status] ?? t("problem.other", { status: status || kind }), detail };
}

export function Trouble({ problem, again }: { problem: Problem; again?: () => void }) {
  const { title, detail } = words(problem);
  const closed = problem.status === 403;
  return (
    <div class={closed ? "state" : "state trouble"} role={closed ? undefined : "alert"}>
      <Icon name={closed ? "lock" : problem.status === 404 ? "empty" : "warning"} size={20} />
      <p>
        <strong>{title}</strong>
      </p>
      {detail && <p class="detail">{detail}</p>}
      {problem.requestId && !closed && (
        <p class="request">
          {t("problem.request")} <code>{problem.requestId}</code>
        </p>
      )}
      {again && !closed && problem.status !== 404 && (
        <button type="button" class="button" onClick={again}>
          <Icon name="again" size={14} /> {t("problem.again")}
        </button>
      )}
    </div>
  );
}

/** What is shown is of earlier, as asking again failed. */
function Stale({ problem, at, again }: { problem: Problem; at: number | undefined; again: () => void }) {
  const { title, detail } = words(problem);
  return (
    <div class="stale" role="status">
      <Icon name="warning" size={14} />
      <p>
        <strong>{title}.</strong> {t("panel.stale")} <Time at={at} />. {detail}
      </p>
      <button type="button" class="link" onClick={again}>
        {t("problem.again")}
      </button>
    </div>
  );
}

/** How old what is shown is, by the API's word when it came and our clock since. */
export function Fresh({ ageS, at }: { ageS: number | null; at: number | undefined }) {
  const now = useNow();
  if (ageS === null || at === undefined) return null;
  return <> · {t("panel.fresh", { age: age(ageS + Math.max(now - at, 0) / 1000) })}</>;
}
