/** What the rules say is wrong now, is about to be, or was. */
import { useAlerts } from "../alerts";
import { decimal, integer } from "../format";
import { t, word } from "../language";
import { go, route } from "../route";
import { useStore } from "../store";
import type { Alert } from "../types";
import { Panel } from "../ui/panel";
import { Ago, Badge, Segments, Spoken, type Tone } from "../ui/parts";

const STATES = ["all", "firing", "pending", "recovered"] as const;

export function Alerts() {
  const query = useAlerts();
  const state = STATES.find((one) => one === useStore(route).params.get("state")) ?? "all";
  const count = (of: (typeof STATES)[number]) =>
    (query.data ?? []).filter((one) => of === "all" || one.state === of).length;
  const firing = count("firing");
  return (
    <Panel
      title={t("alerts.title")}
      note={t("alerts.note")}
      class="full"
      size="l"
      query={query}
      empty={() => count(state) === 0}
      emptyIcon="check"
      emptyText={state === "all" || state === "firing" ? t("alerts.calm") : t("alerts.noneOfState")}
      tools={
        <Segments
          name="state"
          label={t("alerts.state")}
          value={state}
          choose={(chosen) => go({ state: chosen === "all" ? null : chosen })}
          of={STATES.map((value) => ({
            value,
            label: query.data ? `${t(`alerts.${value}`)} ${integer(count(value))}` : t(`alerts.${value}`),
          }))}
        />
      }
    >
      {(data) => (
        <>
          <Spoken text={t("alerts.spoken", { n: integer(firing) })} />
          <AlertList of={data.filter((one) => state === "all" || one.state === state)} />
        </>
      )}
    </Panel>
  );
}

export function severityTone(severity: string): Tone {
  return severity === "critical" ? "bad" : severity === "warning" ? "warn" : "muted";
}

export function AlertList({ of, brief = false }: { of: readonly Alert[]; brief?: boolean }) {
  return (
    <ul class={brief ? "alerts brief" : "alerts"}>
      {of.map((one) => (
        <li key={`${one.rule}\n${one.subject}`} class={`alert is-${one.state} tone-${severityTone(one.severity)}`}>
          <div class="alert-head">
            <Badge tone={one.state === "recovered" ? "good" : severityTone(one.severity)}>
              {one.state === "recovered" ? t("alerts.recovered") : word("severity", one.severity)}
            </Badge>
            {one.state === "pending" && <span class="alert-state">{t("alerts.pending")}</span>}
            {one.silenced && <span class="alert-state">{t("alerts.silenced")}</span>}
            <strong>{one.rule}</strong>
            {!brief && <span class="alert-subject mono">{one.subject}</span>}
            <span class="alert-since">
              <Ago at={one.since} />
            </span>
          </div>
          <p class="alert-text">
            {one.text}
            {!brief && one.value !== null && (
              <span class="alert-value">
                {" · "}
                {t("alerts.value")} <b>{decimal(one.value)}</b>
              </span>
            )}
          </p>
        </li>
      ))}
    </ul>
  );
}
