/** How the platform itself is: how far behind, how fresh, what came in, what was turned away, how long batches take. */
import { age, bytes, compact, integer, milliseconds, percent } from "../format";
import { t, word } from "../language";
import { useSizes, useStatus } from "../questions";
import { go, route } from "../route";
import { axis, fold, plus, seconds, type Column } from "../series";
import { useStore } from "../store";
import type { Batch, Status, StoreState, TableSize, TableState, Topic, Totals } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Icon } from "../ui/icon";
import { Nothing, Panel, words } from "../ui/panel";
import { Ago, Badge, Scroll, Select, Spark, type Tone } from "../ui/parts";

/** Seconds; the contracts' freshness objectives are the rules, these only colour. */
const SLOW_S = 60;
const STEPS = 60;
/** What a store lacks between two looks at a stream that commits twice a second. */
const FEW_BATCHES = 20;

export function lagOf(topic: Topic): number | null {
  return topic.lag_seconds;
}

export function Pipeline() {
  const status = useStatus();
  const topics = Object.keys(status.data?.topics ?? {});
  const asked = useStore(route).params.get("topic");
  const topic = topics.find((one) => one === asked) ?? topics[0] ?? null;
  const choice = topic !== null && (
    <Select
      label={t("pipeline.topic")}
      value={topic}
      choose={(chosen) => go({ topic: chosen })}
      of={topics.map((value) => ({ value, label: value }))}
    />
  );
  const batches = (data: Status) => data.batches.filter((one) => one.topic === topic);
  const sizes = useSizes();
  // Without the lake nobody knows what there is: that is not the same as nothing.
  const lost = Object.values(status.data?.topics ?? {}).some((one) => one.error !== undefined);
  const noBatches = lost ? t("pipeline.unknown") : t("pipeline.noBatches");
  const emptyIcon = lost ? "warning" : "empty";
  return (
    <>
      <Panel title={t("pipeline.topics")} note={t("pipeline.topicsNote")} class="full" size="s" query={status}>
        {(data) => <Topics of={data} />}
      </Panel>
      <Panel
        title={t("pipeline.rows", { topic: topic ?? "…" })}
        note={t("pipeline.batchesNote")}
        class="half"
        query={status}
        empty={(data) => batches(data).length === 0}
        emptyText={noBatches}
        emptyIcon={emptyIcon}
        tools={choice}
      >
        {(data) => <Rows of={batches(data)} />}
      </Panel>
      <Panel
        title={t("pipeline.times", { topic: topic ?? "…" })}
        note={t("pipeline.timesNote")}
        class="half"
        query={status}
        empty={(data) => batches(data).length === 0}
        emptyText={noBatches}
        emptyIcon={emptyIcon}
      >
        {(data) => <Times of={batches(data)} />}
      </Panel>
      <Panel
        title={t("pipeline.tables")}
        note={sizes.problem && !sizes.data ? words(sizes.problem).title : t("pipeline.tablesNote")}
        class="wide"
        size="l"
        query={status}
        empty={(data) => data.tables.length === 0}
        emptyText={lost ? t("pipeline.unknown") : t("pipeline.noTables")}
        emptyIcon={emptyIcon}
      >
        {(data) => <Tables of={data.tables} sizes={sizes.data} />}
      </Panel>
      <Panel title={t("pipeline.stores")} note={t("pipeline.storesNote")} class="narrow" query={status}>
        {(data) => <Stores of={data.stores} />}
      </Panel>
    </>
  );
}

function Topics({ of }: { of: Status }) {
  const names = Object.keys(of.topics);
  const errors = [...new Set(names.map((name) => of.topics[name]!.error).filter((one) => one !== undefined))];
  return (
    <>
      {errors.map((error) => (
        <p key={error} class="notice" role="alert">
          <Icon name="warning" size={14} />
          <span>{error}</span>
        </p>
      ))}
      <Scroll label={t("pipeline.topics")}>
        <table class="rows">
          <thead>
            <tr>
              <th scope="col">{t("pipeline.topic")}</th>
              <th scope="col" class="n">
                {t("pipeline.lag")}
              </th>
              <th scope="col" class="n">
                {t("pipeline.waiting")}
              </th>
              <th scope="col" class="n">
                {t("pipeline.cut")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.in")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.valid")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.quarantined")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.duplicates")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.p50")}
              </th>
              <th scope="col" class="spark-cell opt">
                {t("pipeline.shape")}
              </th>
            </tr>
          </thead>
          <tbody>
            {names.map((name) => (
              <TopicRow
                key={name}
                name={name}
                facts={of.topics[name]!}
                totals={of.totals.find((one) => one.topic === name)}
                batches={of.batches.filter((one) => one.topic === name)}
              />
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function TopicRow(props: {
  name: string;
  facts: Topic;
  totals: Totals | undefined;
  batches: readonly Batch[];
}) {
  const { name, facts, totals, batches } = props;
  const lag = lagOf(facts);
  const took = batches.map((one) => one.batch_ms).filter((ms) => ms !== null);
  return (
    <tr>
      <th scope="row">{name}</th>
      <td class={lag !== null && lag > SLOW_S ? "n warn" : "n"}>{age(lag)}</td>
      <td class="n">{integer(facts.lag_records)}</td>
      <td class="n">
        <Ago at={facts.last_cut_at} />
      </td>
      <td class="n opt">{integer(totals?.records)}</td>
      <td class="n opt">{integer(totals?.valid)}</td>
      <td class="n opt">
        {integer(totals?.quarantined)} {totals && totals.records > 0 && <small>{percent(totals.quarantined / totals.records)}</small>}
      </td>
      <td class="n opt">{integer(totals?.duplicates)}</td>
      <td class="n opt">{milliseconds(median(took))}</td>
      <td class="spark-cell opt">
        <Spark values={took} />
      </td>
    </tr>
  );
}

function median(of: readonly number[]): number | null {
  if (of.length === 0) return null;
  const sorted = [...of].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Batches come when there is something to do: they are put into equal steps between the first and the last. */
function steps(of: readonly Batch[]) {
  const at = of.map((one) => Date.parse(one.committed_at));
  const first = Math.min(...at);
  const last = Math.max(...at);
  const step = Math.max(Math.ceil((last - first) / STEPS / 1000) * 1000, 1000);
  const on = axis(first, Math.max(last + 1, first + 10 * step), step);
  return { on, xs: seconds(on), from: on.start, to: on.start + on.length * on.step };
}

const time = (batch: Batch) => batch.committed_at;

function Rows({ of }: { of: readonly Batch[] }) {
  const drawn = useDrawn(() => {
    const { on, ...rest } = steps(of);
    const part = (value: (batch: Batch) => number) => fold(on, of, time, value, plus);
    const valid = part((one) => one.valid);
    const turned = part((one) => one.quarantined);
    const again = part((one) => one.duplicates);
    const over = (a: Column, b: Column) => a.map((n, i) => (n === null ? null : n + (b[i] ?? 0)));
    // The highest first: what is drawn later stands in front of it.
    const lines: Line[] = [
      { label: t("pipeline.duplicates"), values: over(over(valid, turned), again), said: again, kind: "bars", tone: "muted" },
      { label: t("pipeline.quarantined"), values: over(valid, turned), said: turned, kind: "bars", tone: "warn" },
      { label: t("pipeline.valid"), values: valid, kind: "bars", tone: "accent" },
    ];
    return { ...rest, lines };
  }, [of.map((one) => one.seq).join(), of[0]?.topic]);
  return <Chart title={t("pipeline.rows", { topic: of[0]?.topic ?? "" })} {...drawn} write={compact} height={190} zoom={false} together="batches" />;
}

function Times({ of }: { of: readonly Batch[] }) {
  const drawn = useDrawn(() => {
    const { on, ...rest } = steps(of);
    const values = fold(on, of, time, (one) => one.batch_ms, Math.max);
    const lines: Line[] = [{ label: t("pipeline.batchTime"), values, kind: "bars", tone: "accent2" }];
    return { ...rest, lines };
  }, [of.map((one) => one.seq).join(), of[0]?.topic]);
  return <Chart title={t("pipeline.times", { topic: of[0]?.topic ?? "" })} {...drawn} write={milliseconds} height={190} zoom={false} together="batches" />;
}

const LAYERS = ["gold", "silver", "bronze", "ops"];

function Tables(props: { of: readonly TableState[]; sizes: ReadonlyMap<string, TableSize> | undefined }) {
  const { of, sizes } = props;
  const layer = ({ name }: TableState) => LAYERS.indexOf(name.split(".")[0] ?? "");
  const sorted = [...of].sort((a, b) => layer(a) - layer(b) || a.name.localeCompare(b.name));
  return (
    <Scroll label={t("pipeline.tables")}>
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("pipeline.table")}</th>
            <th scope="col" class="n">
              {t("pipeline.age")}
            </th>
            <th scope="col" class="n">
              {t("pipeline.rowCount")}
            </th>
            <th scope="col" class="n opt">
              {t("pipeline.size")}
            </th>
            <th scope="col" class="n opt">
              {t("pipeline.version")}
            </th>
          </tr>
        </thead>
        <tbody>
          {sorted.map((one) => (
            <tr key={one.name}>
              <th scope="row" class="mono">
                {one.name}
              </th>
              <td class="n">
                <Ago at={one.at} />
              </td>
              <td class="n">{integer(sizes?.get(one.name)?.rows)}</td>
              <td class="n opt">{bytes(sizes?.get(one.name)?.bytes)}</td>
              <td class="n opt">{integer(one.version)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </Scroll>
  );
}

function Stores({ of }: { of: Record<string, StoreState> }) {
  const names = Object.keys(of);
  if (names.length === 0) return <Nothing text={t("pipeline.noStores")} />;
  return (
    <ul class="stores">
      {names.map((name) => {
        const facts = of[name]!;
        const [tone, state] = stateOf(facts);
        const behind = Object.entries(facts.behind_batches ?? {}).filter(([, n]) => n > 0);
        return (
          <li key={name}>
            <div class="store-head">
              <strong>{word("store", name)}</strong>
              <Badge tone={tone}>{state}</Badge>
            </div>
            {facts.error && <p class="detail">{facts.error}</p>}
            {behind.length > 0 && (
              <p class="store-behind">{behind.map(([topic, n]) => `${topic}: ${integer(n)}`).join(", ")}</p>
            )}
          </li>
        );
      })}
    </ul>
  );
}

function stateOf({ reachable, behind_batches: behind = {} }: StoreState): [Tone, string] {
  if (!reachable) return ["bad", t("pipeline.away")];
  const batches = Object.values(behind).reduce(plus, 0);
  if (batches === 0) return ["good", t("pipeline.upToDate")];
  return [batches <= FEW_BATCHES ? "good" : "warn", t("pipeline.behind", { n: integer(batches) })];
}
