/** What the API answers with. Times are RFC 3339, UTC. */

export interface Page<T> {
  data: T[];
  next: string | null;
}
export interface Site {
  at: string | null;
  active_users: number | null;
  events_1m: Record<string, number>;
}
export interface ActivityRow {
  window_start: string;
  event_type: string;
  events: number;
  users: number;
}
export interface Trending {
  rank: number;
  post_id: string;
  score: number;
}
export interface Engagement {
  date: string;
  post_id: string;
  views: number;
  likes: number;
  comments: number;
  shares: number;
  bookmarks: number;
  users: number;
}
export interface Health {
  window_start: string;
  service: string;
  requests: number;
  errors: number;
  error_rate: number | null;
  p50_ms: number | null;
  p95_ms: number | null;
  p99_ms: number | null;
}
export interface SlowPath {
  path: string;
  requests: number;
  errors: number;
  p50_ms: number | null;
  p95_ms: number | null;
  max_ms: number | null;
}
export interface Host {
  host: string;
  last_seen: string;
  cpu: number | null;
  memory: number | null;
  disk: number | null;
}
export interface Utilization {
  window_start: string;
  avg: number;
  max: number;
}
/** A day whose report is kept. */
export interface KeptReport {
  date: string;
  made_at: string;
}
export interface Anomaly {
  series: string;
  time: string;
  value: number;
  expected: number | null;
  score: number;
}
export interface Forecast {
  series: string;
  time: string;
  mean: number;
  lo: number;
  hi: number;
  made_at: string;
}
export interface Alert {
  rule: string;
  subject: string;
  severity: string;
  state: "pending" | "firing" | "recovered";
  since: string;
  value: number | null;
  text: string;
  silenced: boolean;
}
export interface Log {
  id: string;
  time: string;
  level: string | null;
  service: string | null;
  host: string | null;
  message: string | null;
  error?: string | null;
  trace_id: string | null;
  path: string | null;
  status: number | null;
  duration_ms: number | null;
}
export interface Facet {
  value: string;
  count: number;
}
export interface LogPage extends Page<Log> {
  total?: number;
  histogram?: { time: string; count: number; errors: number }[];
  facets?: Record<"service" | "level" | "host", Facet[]>;
  step_s?: number;
}
export interface UserDay {
  date: string;
  events: number;
  sessions: number;
  posts: number;
  first_at: string;
  last_at: string;
}
export interface UserActivity {
  user_id: string;
  days: UserDay[];
  live: {
    last_at: string;
    page: string | null;
    device: string | null;
    events_1m: Record<string, number>;
    events_15m: Record<string, number>;
    session: { start: string; events: number } | null;
  } | null;
  profile: {
    first_at: string;
    last_at: string;
    events: number;
    sessions: number;
    by_type: Record<string, number>;
    device?: string | null;
    recent_posts?: string[];
  } | null;
}
export interface Recommended {
  user_id: string;
  source: "realtime" | "batch" | "popularity";
  model_version: string | null;
  at: string | null;
  age_s: number | null;
  items: { post_id: string; score: number }[];
}
export interface Notification {
  id: string;
  user_id?: string;
  rule: string;
  severity: string;
  kind: string;
  subject: string;
  at: string;
  text: string | null;
}
export interface Batch {
  topic: string;
  seq: number;
  records: number;
  valid: number;
  quarantined: number;
  duplicates: number;
  batch_ms: number | null;
  committed_at: string;
}
/** Lag counts to gold; null, with `error`, where Kafka or the lake cannot be asked. */
export interface Topic {
  lag_records: number | null;
  lag_seconds: number | null;
  last_cut_at: string | null;
  error?: string;
}
export interface TableState {
  name: string;
  version: number;
  at: string | null;
}
/** A topic, table, model, or key of a store; the newest that is known of it. */
export interface LineageNode {
  id: string;
  kind: "topic" | "table" | "model" | "store";
  stage: "topic" | "bronze" | "silver" | "gold" | "model" | "made" | "store";
  system: string;
  name: string;
  job: string;
  version: number | null;
  batch: number | null;
  /** Batches that a store lacks. */
  behind: number | null;
  at: string | null;
}
export interface LineageEdge {
  source: string;
  target: string;
}
export interface Lineage {
  nodes: LineageNode[];
  edges: LineageEdge[];
}
export interface LineageSource {
  id: string;
  column: string;
  how: string;
  what: string | null;
}
export interface LineageOf extends LineageNode {
  sources: string[];
  upstream: string[];
  downstream: string[];
  columns: { name: string; type: string; sources: LineageSource[] }[];
  decided_by: LineageSource[];
}
/** What `/v1/tables` knows besides. */
export interface TableSize {
  name: string;
  rows: number | null;
  bytes: number | null;
}
export interface StoreState {
  reachable: boolean;
  /** By topic. */
  behind_batches?: Record<string, number>;
  error?: string;
}
export interface Totals {
  topic: string;
  records: number;
  valid: number;
  quarantined: number;
  duplicates: number;
}
export interface Status {
  at: string;
  topics: Record<string, Topic>;
  tables: TableState[];
  stores: Record<string, StoreState>;
  batches: Batch[];
  totals: Totals[];
}
