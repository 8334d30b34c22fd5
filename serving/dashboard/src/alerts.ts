/** The alerts of the platform: asked once for the whole frame, as the menu counts them and pages show them. */
import { createContext } from "preact";
import { useContext } from "preact/hooks";

import { get } from "./api";
import { alertChanged } from "./now";
import { useQuery, type Query } from "./query";
import type { Alert, Page } from "./types";

const NONE: Query<Alert[]> = { data: undefined, problem: undefined, asking: false, at: undefined, again: () => {} };
export const AlertsOfAll = createContext<Query<Alert[]>>(NONE);

const STATES = ["firing", "pending", "recovered"];
const SEVERITIES = ["critical", "warning", "info"];

/** What needs a person first comes first; among alike the newest. */
export function ordered(alerts: readonly Alert[]): Alert[] {
  const place = (all: readonly string[], value: string) => (all.indexOf(value) + all.length + 1) % (all.length + 1);
  return [...alerts].sort(
    (a, b) =>
      place(STATES, a.state) - place(STATES, b.state) ||
      Number(a.silenced) - Number(b.silenced) ||
      place(SEVERITIES, a.severity) - place(SEVERITIES, b.severity) ||
      b.since.localeCompare(a.since),
  );
}

export function useAlertsOfAll(): Query<Alert[]> {
  return useQuery(
    "alerts",
    async (signal) => ordered((await get<Page<Alert>>("/alerts", {}, signal)).body.data),
    { when: alertChanged, gapMs: 1000 },
  );
}

export function useAlerts(): Query<Alert[]> {
  return useContext(AlertsOfAll);
}
